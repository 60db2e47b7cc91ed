// Lists of characters as SentencePiece models.
#include <gtest/gtest.h>

#include "data/character_model.h"
#include "data/tokenizer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

const std::vector<std::string> kTokens{"<blank>", "<s>", "</s>", "a",      "ß",
                                       "\u200e",  "ي",   "😀",    "\u064e", "<unk>"};

TEST(CharacterModel, IdsAreThoseOfTheList) {
  TemporaryFolder folder;
  put(folder / "tokenizer.model", character_model(kTokens, "list.txt"));
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.vocab_size(), 10);
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  // Every character, each for itself: marks are not composed and nothing is normalised.
  EXPECT_EQ(tokenizer.encode("aßي\u064e😀\u200ea"),
            (std::vector<std::int32_t>{3, 4, 6, 8, 7, 5, 3}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("😀aي\u064e")), "😀aي\u064e");
  EXPECT_EQ(tokenizer.encode("aZa"), (std::vector<std::int32_t>{3, 9, 3}));
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{1, 3, 2}), "a");
}

TEST(CharacterModel, LargeListsAndBadOnes) {
  TemporaryFolder folder;
  std::vector<std::string> tokens{"<s>", "</s>", "<unk>"};
  for (int c = 0; c < 3000; ++c) {
    const int code = 0x4E00 + c;
    tokens.push_back({static_cast<char>(0xE0 | code >> 12),
                      static_cast<char>(0x80 | (code >> 6 & 63)),
                      static_cast<char>(0x80 | (code & 63))});
  }
  put(folder / "tokenizer.model", character_model(tokens, "list.txt"));
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  for (std::int32_t id : {3, 130, 300, 3002})
    EXPECT_EQ(tokenizer.encode(tokens[static_cast<std::size_t>(id)]),
              std::vector<std::int32_t>{id});

  const auto says = [](const std::vector<std::string>& list, const std::string& sentence) {
    const std::string error = error_of([&] { (void)character_model(list, "list.txt"); });
    EXPECT_NE(error.find(sentence), std::string::npos) << error;
  };
  says({"<s>", "</s>", "<unk>", "the"}, "'the' is not one character");
  says({"<s>", "</s>", "<unk>", ""}, "not one character");
  says({"<s>", "</s>", "<unk>", "\xFF"}, "not one character");
  says({"<s>", "</s>", "<unk>", "a", "a"}, "list.txt: the token 'a' is listed twice");
  says({"<s>", "<unk>", "a"}, "list.txt lacks the token </s>");
}

}  // namespace
}  // namespace t2r
