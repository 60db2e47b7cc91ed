// Sentence pairs from text files, plain and gzip, to a dataset; what is dropped, what is refused.
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/base/random.h"
#include "data/prepare_pairs.h"
#include "data/sentence_file.h"
#include "data/text_file.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

void put(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

void put_gzip(const std::string& path, const std::string& text) {
  const gzFile file = gzopen(path.c_str(), "wb");
  ASSERT_EQ(gzwrite(file, text.data(), static_cast<unsigned>(text.size())),
            static_cast<int>(text.size()));
  gzclose(file);
}

std::string get(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Sentences of made-up words, the same number on both sides.
std::string sentences(std::uint64_t seed, int lines, const char* extra) {
  static const char* const words[] = {"Haus",   "geht", "the",  "größer", "été",
                                      "maison", "over", "中文", "句子",   "zwölf"};
  std::string text;
  for (int i = 0; i < lines; ++i) {
    const auto count = 3 + random_bits(seed, 1, static_cast<std::uint64_t>(i))[0] % 6;
    for (std::uint64_t w = 0; w < count; ++w)
      text += std::string(w ? " " : "") +
              words[random_bits(seed, 2, static_cast<std::uint64_t>(i) * 16 + w)[0] % 10];
    text += std::string(extra) + "\n";
  }
  return text;
}

struct Files : TemporaryFolder {
  std::string in(const char* name) const { return path() + "/" + name; }

  PreparePairsOptions options(const std::string& source, const std::string& target) const {
    put(in("source"), source);
    put(in("target"), target);
    PreparePairsOptions options;
    options.train.source = {in("source")};
    options.train.target = {in("target")};
    options.out = in("data");
    options.vocab_size = 400;
    options.overwrite = true;
    return options;
  }
};

std::vector<std::int32_t> document(const TokenStream& side, std::int64_t i) {
  const std::int64_t begin = side.document_begin(i), end = side.document_begin(i + 1);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(end - begin));
  side.copy_tokens(begin, end, tokens.data());
  return tokens;
}

TEST(PreparePairs, BothSidesComeBackAsTheyWere) {
  for (const bool joint : {true, false}) {
    const Files files;
    const std::string source = sentences(1, 90, ""), target = sentences(2, 90, " ！");
    PreparePairsOptions options = files.options(source, target);
    options.joint_vocabulary = joint;
    options.shards = 3;
    options.valid_fraction = 0.2;
    prepare_pairs(options);
    const Dataset dataset = Dataset::open(options.out);
    EXPECT_EQ(dataset.info().joint_vocabulary(), joint);
    const auto left = read_lines(files.in("source")), right = read_lines(files.in("target"));
    std::size_t seen = 0;
    std::vector<bool> found(left.size());
    for (const char* split : {"train", "valid"}) {
      const PairStream pairs = dataset.pairs(split);
      EXPECT_GT(pairs.pairs(), 5);
      for (std::int64_t i = 0; i < pairs.pairs(); ++i, ++seen) {
        auto from = document(pairs.source, i), to = document(pairs.target, i);
        EXPECT_EQ(from.back(), dataset.source_tokenizer().eos());
        EXPECT_EQ(to.front(), dataset.tokenizer().bos());
        EXPECT_EQ(to.back(), dataset.tokenizer().eos());
        const std::string text = dataset.source_tokenizer().decode(from);
        std::string translation = dataset.tokenizer().decode(to);
        EXPECT_TRUE(translation.ends_with(" !")) << "full-width forms become plain ones";
        translation.replace(translation.size() - 1, 1, "！");
        bool known = false;
        for (std::size_t line = 0; line < left.size() && !known; ++line)
          if (!found[line] && left[line] == text && right[line] == translation)
            known = found[line] = true;
        EXPECT_TRUE(known) << text << " | " << translation;
      }
    }
    EXPECT_EQ(seen, left.size());
    EXPECT_ERROR(dataset.stream("train"), "holds sentence pairs");
  }
}

/// What the tokenizer gives back of a sentence is its NFKC form (Unicode, annex 15), for characters
/// of the text it was trained on and for others.
TEST(PreparePairs, SentencesComeBackInNfkc) {
  const std::vector<std::pair<std::string, std::string>> sentences{
      {"Straße “größer” – 5 ½ km², ﬁn … Ａｂｃ１２", "Straße “größer” – 5 1⁄2 km2, fin ... Abc12"},
      {"A\u0308pfel und o\u0308l", "Äpfel und öl"},
      {"L’été « déjà\u00A0» coûte 3\u202F€ ; œuvre № 2", "L’été « déjà » coûte 3 € ; œuvre No 2"},
      {"中文句子，ＡＢＣ！（１２３）：？", "中文句子,ABC!(123):?"},
      {"我们去北京。", "我们去北京。"},
      {"  two  spaces ", "  two  spaces "},
      {"never seen: 𝄞 😀 ∀x ほげ ▁", "never seen: 𝄞 😀 ∀x ほげ ▁"}};
  std::string german, chinese;
  for (int i = 0; i < 20; ++i) {
    german += sentences[0].first + "\n" + sentences[1].first + "\n" + sentences[2].first + "\n";
    chinese += sentences[3].first + "\n" + sentences[4].first + "\n" + sentences[4].first + "\n";
  }
  for (const std::string type : {"bpe", "unigram", "char"})
    for (const bool joint : {true, false}) {
      const Files files;
      PreparePairsOptions options = files.options(german, chinese);
      options.model_type = type;
      options.joint_vocabulary = joint;
      options.vocab_size = 350;
      prepare_pairs(options);
      const Dataset dataset = Dataset::open(options.out);
      for (const Tokenizer* tokenizer : {&dataset.source_tokenizer(), &dataset.tokenizer()})
        for (const auto& [sentence, expected] : sentences) {
          EXPECT_EQ(tokenizer->decode(tokenizer->encode(sentence)), expected) << type << joint;
          EXPECT_EQ(tokenizer->decode(tokenizer->encode(expected)), expected) << type << joint;
        }
    }
}

TEST(PreparePairs, LinesEndAtLineFeedsOnly) {
  const Files files;
  put(files.in("lines"), "\xEF\xBB\xBFone\r\ntwo\rtwo\x0c two\u2028two\u0085two\n\nlast");
  EXPECT_EQ(read_lines(files.in("lines")),
            (std::vector<std::string>{"one", "two\rtwo\x0c two\u2028two\u0085two", "", "last"}));
}

TEST(PreparePairs, GzipAndTabsAndThreadsGiveTheSameDataset) {
  const Files files;
  const std::string source = sentences(3, 60, ""), target = sentences(4, 60, ".");
  PreparePairsOptions options = files.options(source, target);
  prepare_pairs(options);
  const std::string expected = get(options.out + "/train-00000-of-00001.h5");
  ASSERT_FALSE(expected.empty());

  put_gzip(files.in("source"), source);
  put_gzip(files.in("target"), target);
  options.workers = 4;
  prepare_pairs(options);
  EXPECT_EQ(get(options.out + "/train-00000-of-00001.h5"), expected);

  std::string rows;
  put(files.in("a"), source);
  put(files.in("b"), target);
  const auto left = read_lines(files.in("a")), right = read_lines(files.in("b"));
  for (std::size_t i = 0; i < left.size(); ++i) rows += left[i] + "\t" + right[i] + "\n";
  put_gzip(files.in("rows.gz"), rows);
  options.train = {};
  options.train.tsv = {files.in("rows.gz")};
  prepare_pairs(options);
  EXPECT_EQ(get(options.out + "/train-00000-of-00001.h5"), expected);
}

TEST(PreparePairs, LeftOutPairsAreCounted) {
  const Files files;
  std::string source = sentences(5, 40, ""), target = sentences(6, 40, "");
  std::string flood;
  for (int i = 0; i < 20000; ++i) flood += "Haus ";  // a line of 100,000 characters
  source += "\n the \n" + flood + "\nHaus\n";
  target += "Haus\n\t\nHaus\n" + std::string(" the over Haus größer maison the over Haus geht") +
            " the over Haus größer maison the over Haus geht\n";
  PreparePairsOptions options = files.options(source, target);
  options.max_length = 200;
  options.max_ratio = 6;
  const DatasetInfo info = prepare_pairs(options);
  const SplitInfo& train = info.splits.at("train");
  EXPECT_EQ(train.documents, 40);
  EXPECT_EQ(train.dropped_empty, 2);
  EXPECT_EQ(train.dropped_long, 1);
  EXPECT_EQ(train.dropped_ratio, 1);
  EXPECT_EQ(Dataset::open(options.out).split("train").dropped_ratio, 1);

  // A test set loses only what is empty.
  options.test.source = options.train.source;
  options.test.target = options.train.target;
  EXPECT_EQ(prepare_pairs(options).splits.at("test").documents, 42);
}

TEST(PreparePairs, SharesThatLeaveASplitEmptyAreRefused) {
  const Files files;
  PreparePairsOptions options = files.options(sentences(8, 30, ""), sentences(9, 30, ""));
  options.valid_fraction = 1e-9;
  EXPECT_ERROR(prepare_pairs(options), "the split valid got none of the pairs");
  options.valid_fraction = 0;
  options.test_fraction = 1 - 1e-9;
  EXPECT_ERROR(prepare_pairs(options), "the split train got none of the pairs");
}

/// Whether NFKC leaves the line alone: printable ASCII, Latin-1 letters, the common ideographs, and
/// their comma and full stop.
bool plain(const std::string& line) {
  for (std::size_t i = 0; i < line.size();) {
    const auto lead = static_cast<unsigned char>(line[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    const std::string character = line.substr(i, length);
    const bool ascii = character >= " " && character <= "~" && length == 1;
    const bool latin = character >= "À" && character <= "ÿ" && length == 2;
    const bool ideograph = character >= "一" && character <= "鿿" && length == 3;
    if (!ascii && !latin && !ideograph && character != "、" && character != "。") return false;
    i += length;
  }
  return true;
}

/// Every plain line of a side comes back byte for byte; at least `least` lines are plain.
void expect_lines(const TokenStream& side, const Tokenizer& tokenizer,
                  const std::vector<std::string>& lines, std::int64_t least) {
  ASSERT_EQ(side.documents(), std::ssize(lines));
  std::int64_t compared = 0;
  for (std::int64_t i = 0; i < side.documents(); ++i) {
    const std::string& line = lines[static_cast<std::size_t>(i)];
    if (!plain(line)) continue;
    ASSERT_EQ(tokenizer.decode(document(side, i)), line) << "line " << i + 1;
    ++compared;
  }
  EXPECT_GE(compared, least);
}

/// A file of the texts that lie beside the checkout on some machines.
std::string shared_data(const std::string& name) {
  const char* const given = std::getenv("T2R_SHARED");
  const std::filesystem::path source_tree = std::filesystem::path(__FILE__).parent_path() / "../..";
  return (given ? std::filesystem::path(given) : source_tree / "../shared") / "data" / name;
}

TEST(PreparePairs, ChineseAndEnglish) {
  const std::string zh = shared_data("tatoeba/tatoeba.en-zh.zh.gz");
  const std::string en = shared_data("tatoeba/tatoeba.en-zh.en.gz");
  if (!std::filesystem::exists(zh))
    GTEST_SKIP() << "Tatoeba is not there: T2R_SHARED names a folder with data/tatoeba";
  const Files files;
  PreparePairsOptions options;
  options.train.source = options.test.source = {zh};
  options.train.target = options.test.target = {en};
  options.out = files.in("data");
  options.joint_vocabulary = false;
  options.vocab_size = 2000;
  options.source_vocab_size = 4000;
  options.workers = 2;
  const DatasetInfo info = prepare_pairs(options);
  EXPECT_EQ(info.vocab_size, 2000);
  EXPECT_EQ(info.source_vocab_size, 4000);
  const SplitInfo& train = info.splits.at("train");
  EXPECT_EQ(train.documents + train.dropped_empty + train.dropped_long + train.dropped_ratio,
            std::ssize(read_lines(zh)));
  const Dataset dataset = Dataset::open(options.out);
  const std::string rare = "龘靐齉爩";  // too rare to have pieces: they become bytes, and come back
  EXPECT_EQ(dataset.source_tokenizer().decode(dataset.source_tokenizer().encode(rare)), rare);
  const PairStream test = dataset.pairs("test");
  expect_lines(test.source, dataset.source_tokenizer(), read_lines(zh), 7000);
  expect_lines(test.target, dataset.tokenizer(), read_lines(en), 10000);
}

TEST(PreparePairs, BadInputIsOneSentence) {
  const Files files;
  const std::string good = sentences(7, 30, "");
  const auto refuses = [&](const std::string& source, const std::string& target, const char* part) {
    const PreparePairsOptions options = files.options(source, target);
    EXPECT_ERROR(prepare_pairs(options), part);
    EXPECT_FALSE(std::filesystem::exists(options.out + "/dataset.json"));
  };
  refuses(good, good + "one more\n", "line 31 of the longer one has no partner");
  refuses(good, "", "is empty");
  refuses(good + "b\xff\n", good + "b\n", "line 31 is not valid UTF-8");
  refuses("\n\n", "a\nb\n", "has no pairs");
  PreparePairsOptions options = files.options(good, good);
  options.train.source = {files.in("missing")};
  EXPECT_ERROR(prepare_pairs(options), "missing");
  options = files.options(good, good);
  options.train.target.clear();
  EXPECT_ERROR(prepare_pairs(options), "each source needs its target");
  options = files.options(good, good);
  options.max_length = 1;
  EXPECT_ERROR(prepare_pairs(options), "has no pairs");
  put(files.in("tabs"), "a\tb\nno tab here\n");
  options.train = {};
  options.train.tsv = {files.in("tabs")};
  EXPECT_ERROR(prepare_pairs(options), "line 2 ('no tab here') has not exactly one tab");

  put_gzip(files.in("whole.gz"), good);
  std::string bytes = get(files.in("whole.gz"));
  put(files.in("cut.gz"), bytes.substr(0, bytes.size() / 2));
  EXPECT_ERROR(read_lines(files.in("cut.gz")), "truncated");
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x55);
  put(files.in("flipped.gz"), bytes);
  EXPECT_ERROR(read_lines(files.in("flipped.gz")), "flipped.gz");
  EXPECT_ERROR(TextFile(files.in("whole.gz"), 10), "unpacks to more than 10 bytes");
  // Members one after the other are one text.
  put(files.in("two.gz"), get(files.in("whole.gz")) + get(files.in("whole.gz")));
  EXPECT_EQ(TextFile(files.in("two.gz")).text(), good + good);
}

/// Real text: nothing is lost and the counts add up.
TEST(PreparePairs, Multi30k) {
  const std::filesystem::path folder = shared_data("multi30k");
  if (!std::filesystem::exists(folder / "train.en.gz"))
    GTEST_SKIP() << "Multi30k is not there: T2R_SHARED names a folder with data/multi30k";
  const auto file = [&](const char* name) { return (folder / name).string(); };
  const Files files;
  PreparePairsOptions options;
  options.train.source = {file("train.en.gz")};
  options.train.target = {file("train.de.gz")};
  options.valid.source = {file("val.en.gz")};
  options.valid.target = {file("val.de.gz")};
  options.out = files.in("data");
  options.vocab_size = 4000;
  options.workers = 2;
  const DatasetInfo info = prepare_pairs(options);
  const SplitInfo& train = info.splits.at("train");
  EXPECT_EQ(train.documents + train.dropped_empty + train.dropped_long + train.dropped_ratio,
            29000);
  EXPECT_GT(train.documents, 28900);
  const SplitInfo& valid = info.splits.at("valid");
  EXPECT_EQ(valid.documents, 1014);
  EXPECT_EQ(valid.words, 11567);  // of 11,568 one is set apart by a no-break space, no ASCII space
  const Dataset dataset = Dataset::open(options.out);
  const PairStream pairs = dataset.pairs("valid");
  const auto left = read_lines(file("val.en.gz")), right = read_lines(file("val.de.gz"));
  std::vector<std::size_t> differ;
  for (std::int64_t i = 0; i < pairs.pairs(); ++i) {
    const auto line = static_cast<std::size_t>(i);
    ASSERT_EQ(dataset.source_tokenizer().decode(document(pairs.source, i)), left[line]);
    if (dataset.tokenizer().decode(document(pairs.target, i)) != right[line])
      differ.push_back(line);
  }
  EXPECT_EQ(differ, std::vector<std::size_t>{75}) << "the only line that NFKC changes";
}

}  // namespace
}  // namespace t2r
