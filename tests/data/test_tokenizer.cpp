// Tokenizers: exact round trips, determinism, agreement with SentencePiece itself, bad input.
#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <thread>

#include "core/base/random.h"
#include "data/atomic_file.h"
#include "data/sentencepiece_model.h"
#include "data/sha256.h"
#include "data/tokenizer.h"
#include "tests/data/random_text.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

Tokenizer trained(const TemporaryFolder& folder, const std::string& type, std::int64_t vocab_size) {
  const std::string text = random_text(7, 4000);
  const std::vector<std::string_view> texts{text};
  const std::string path = folder / ("tokenizer-" + type + ".model");
  Tokenizer::train_sentencepiece(texts, {.vocab_size = vocab_size, .model_type = type}, path);
  return Tokenizer::load(path);
}

const std::vector<std::string>& hard_texts() {
  using namespace std::string_literals;
  static const std::vector<std::string> texts{
      "",
      " ",
      "\n",
      "\n\n\n",
      "a",
      " a ",
      "  two   runs  of    spaces  ",
      "line\n  line \n\n end\n",
      "tab\tand\r\ncarriage return\r",
      "\xE2\x96\x81 mark \xE2\x96\x81\xE2\x96\x81x\xE2\x96\x81",
      "<s></s><unk><0x41> control names",
      "\xEF\xBF\xBD replacement, \xE2\x96\x85 reserved",
      "\xE8\xAA\x9E\xE8\xA8\x80 \xF0\x9F\x98\x80 e\xCC\x81 \xEF\xAC\x81",
      "zero\0inside"s,
      "\xC2\xA0no-break\xE3\x80\x80wide",
      std::string(5000, 'x'),
      std::string(300, ' ')};
  return texts;
}

TEST(Tokenizer, RoundTripIsExact) {
  TemporaryFolder folder;
  for (const std::string type : {"bpe", "unigram", "char", "bytes"}) {
    const Tokenizer tokenizer =
        type == "bytes" ? Tokenizer::bytes() : trained(folder, type, type == "char" ? 300 : 500);
    for (const std::string& text : hard_texts()) {
      const auto ids = tokenizer.encode(text);
      EXPECT_EQ(tokenizer.decode(ids), text) << type;
      for (std::int32_t id : ids) ASSERT_TRUE(id >= 0 && id < tokenizer.vocab_size());
    }
    const std::string text = random_text(8, 3000);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << type;
    // Every character of Unicode at least in steps of a prime.
    std::string all;
    for (std::uint32_t c = 1; c < 0x110000; c += 97)
      if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(all)), all) << type;
  }
}

TEST(Tokenizer, DecodesAStreamPieceByPiece) {
  TemporaryFolder folder;
  const Tokenizer tokenizer = trained(folder, "bpe", 400);
  const std::string text = "two words \xF0\x9F\x98\x80\n end";
  std::string joined;
  for (std::int32_t id : tokenizer.encode(text)) joined += tokenizer.decode({{id}});
  EXPECT_EQ(joined, text);
  const std::vector<std::int32_t> marks{tokenizer.bos(), tokenizer.eos()};
  EXPECT_EQ(tokenizer.decode(marks), "");
}

TEST(Tokenizer, WordByWordEqualsSentencePieceItself) {
  TemporaryFolder folder;
  for (const std::string type : {"bpe", "char"}) {
    const Tokenizer tokenizer = trained(folder, type, 500);
    sentencepiece::SentencePieceProcessor reference;
    ASSERT_TRUE(reference.Load(folder / ("tokenizer-" + type + ".model")).ok());
    const std::string text = random_text(9, 5000) + "  runs   of spaces \n\n newlines";
    std::vector<int> expected;
    ASSERT_TRUE(reference.Encode(text, &expected).ok());
    EXPECT_EQ(tokenizer.encode(text), expected) << type;
    EXPECT_EQ(tokenizer.encode(text), expected) << type << ", from the cache";
  }
}

/// Ids as SentencePiece has them for the whole of each hard text and of random ones.
void expect_as_sentencepiece(const std::string& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  sentencepiece::SentencePieceProcessor processor;
  ASSERT_TRUE(processor.Load(path).ok());
  std::vector<std::string> texts = hard_texts();
  const std::vector<std::string> parts{"a",
                                       "bc",
                                       " ",
                                       " ",
                                       "  ",
                                       "the",
                                       "end",
                                       "\n",
                                       "\t",
                                       "\r",
                                       "\x01",
                                       "\x7F",
                                       "<s>",
                                       "\xE2\x96\x81",
                                       "\xE3\x80\x80",
                                       "\xC2\xA8",
                                       "1",
                                       ".",
                                       "q",
                                       "\xC3\xA9",
                                       "\xCC\x81",
                                       "\xE4\xB8\xAD",
                                       "\xF0\x9F\x98\x80",
                                       "\xEF\xAC\x81"};
  for (std::uint64_t i = 0; i < 3000; ++i) {
    std::string text;
    for (std::uint64_t k = 0; k < i % 17; ++k)
      text += parts[random_bits(11, i, k)[0] % parts.size()];
    texts.push_back(text);
  }
  texts.push_back(random_text(12, 3000));
  for (const std::string& text : texts) {
    std::vector<int> whole;
    ASSERT_TRUE(processor.Encode(text, &whole).ok());
    ASSERT_EQ(tokenizer.encode(text), whole) << path << ": '" << text << "'";
  }
}

TEST(Tokenizer, ModelsOfOthersGiveTheIdsOfSentencePieceItself) {
  const TemporaryFolder folder;
  const std::string text = folder / "text";
  write_file_atomically(text, random_text(7, 4000));
  int number = 0;
  for (const char* type : {"bpe", "unigram"})
    for (const char* normalization : {"nmt_nfkc", "identity", "nfkc_cf"})
      for (const char* one_space : {"true", "false"})
        for (const char* fallback : {"true", "false"}) {
          const std::string prefix = folder / fmt::format("model{}", number++);
          ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train(
                          {{"input", text},
                           {"model_prefix", prefix},
                           {"model_type", type},
                           {"vocab_size", "400"},
                           {"hard_vocab_limit", "false"},
                           {"normalization_rule_name", normalization},
                           {"remove_extra_whitespaces", one_space},
                           {"byte_fallback", fallback},
                           {"num_threads", "1"},
                           {"minloglevel", "3"}})
                          .ok());
          expect_as_sentencepiece(prefix + ".model");
        }
}

TEST(Tokenizer, PiecesOfSeveralSpacesAreFound) {  // as Llama 2 has them
  const std::string mark = "\xE2\x96\x81";
  std::vector<SentencePieceEntry> entries{{"<unk>", 0, PieceType::unknown},
                                          {"<s>", 0, PieceType::control},
                                          {"</s>", 0, PieceType::control}};
  for (int byte = 0; byte < 256; ++byte)
    entries.push_back({fmt::format("<0x{:02X}>", byte), 0, PieceType::byte});
  float score = 0;
  for (const std::string& piece :
       {mark + mark, mark + "a", mark + mark + mark + mark, mark + mark + mark, std::string("bc"),
        mark + "the", std::string("th"), std::string("the"), mark, std::string("a"),
        std::string("b"), std::string("c"), std::string("t"), std::string("h"), std::string("e")})
    entries.push_back({piece, score -= 1});
  const TemporaryFolder folder;
  const std::string path = folder / "tokenizer.model";
  write_file_atomically(path, sentencepiece_model(entries, {.bos = 1, .eos = 2}, "it"));
  expect_as_sentencepiece(path);
}

TEST(Tokenizer, ThreadsGetTheSameIds) {
  TemporaryFolder folder;
  const Tokenizer tokenizer = trained(folder, "bpe", 500);
  const std::string text = random_text(10, 500);
  const auto expected = tokenizer.encode(text);
  std::vector<std::vector<std::int32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results)
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) result = tokenizer.encode(text);
    });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Tokenizer, TrainingIsDeterministic) {
  TemporaryFolder folder;
  const std::string text = random_text(7, 4000);
  const std::vector<std::string_view> texts{text};
  for (const std::string type : {"bpe", "unigram", "char"}) {
    for (const char* name : {"/first", "/second"})
      Tokenizer::train_sentencepiece(texts, {.vocab_size = 500, .model_type = type},
                                     folder.path() + name);
    EXPECT_EQ(get(folder / "first"), get(folder / "second")) << type;
  }
}

TEST(Tokenizer, OneLongLineIsEnoughToTrainOn) {
  TemporaryFolder folder;
  std::string text = random_text(11, 4000);
  std::replace(text.begin(), text.end(), '\n', ' ');
  const std::vector<std::string_view> texts{text};
  Tokenizer::train_sentencepiece(texts, {.vocab_size = 500}, folder / "tokenizer.model");
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.vocab_size(), 500);
  EXPECT_LT(tokenizer.encode(text).size(), text.size() / 2);
}

TEST(Tokenizer, ByteTokenizer) {
  const Tokenizer tokenizer = Tokenizer::bytes();
  EXPECT_EQ(tokenizer.vocab_size(), 258);
  EXPECT_EQ(tokenizer.bos(), 256);
  EXPECT_EQ(tokenizer.eos(), 257);
  EXPECT_EQ(tokenizer.encode("A\xFF"), (std::vector<std::int32_t>{65, 255}));
}

TEST(Tokenizer, SaveLoadKeepsTheFile) {
  TemporaryFolder folder;
  for (const Tokenizer& tokenizer : {trained(folder, "bpe", 400), Tokenizer::bytes()}) {
    TemporaryFolder place;
    tokenizer.save(place.path());
    const Tokenizer again = Tokenizer::load(place.path());
    EXPECT_EQ(again.sha256(), tokenizer.sha256());
    EXPECT_EQ(sha256_hex(get(place / tokenizer.file_name())), tokenizer.sha256());
    EXPECT_EQ(again.encode("some text"), tokenizer.encode("some text"));
  }
}

TEST(Tokenizer, BadInputIsOneSentence) {
  TemporaryFolder folder;
  EXPECT_ERROR(Tokenizer::load(folder / "none.model"), "cannot open");
  EXPECT_ERROR(Tokenizer::load(folder.path()), "holds no tokenizer");
  put(folder / "noise.model", random_text(1, 50));
  EXPECT_ERROR(Tokenizer::load(folder / "noise.model"), "not a SentencePiece model");
  put(folder / "empty.model", "");
  EXPECT_ERROR(Tokenizer::load(folder / "empty.model"), "not a SentencePiece model");
  put(folder / "tokenizer.json", "{\"model\": 1}");
  EXPECT_ERROR(Tokenizer::load(folder / "tokenizer.json"), "it has no model");
  put(folder / "torn.json", "{\"mod");
  EXPECT_ERROR(Tokenizer::load(folder / "torn.json"), "not valid JSON");

  const Tokenizer tokenizer = trained(folder, "bpe", 400);
  EXPECT_ERROR(tokenizer.encode("ab\xFF"), "byte offset 2");
  const std::vector<std::int32_t> outside{400}, negative{-1};
  EXPECT_ERROR(tokenizer.decode(outside), "outside the vocabulary of 400");
  EXPECT_ERROR(tokenizer.decode(negative), "outside the vocabulary");
  const std::vector<std::string_view> texts{"some text"}, nothing{"\n\n"}, broken{"\x80"};
  EXPECT_ERROR(Tokenizer::train_sentencepiece(texts, {.vocab_size = 100}, folder / "x"),
               "vocabulary of 100");
  EXPECT_ERROR(Tokenizer::train_sentencepiece(texts, {.model_type = "words"}, folder / "x"),
               "unknown tokenizer type");
  EXPECT_ERROR(Tokenizer::train_sentencepiece(nothing, {}, folder / "x"), "no text");
  EXPECT_ERROR(Tokenizer::train_sentencepiece(broken, {}, folder / "x"), "not valid UTF-8");
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

}  // namespace
}  // namespace t2r
