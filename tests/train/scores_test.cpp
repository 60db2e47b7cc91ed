// BLEU and chrF against what the Python package sacrebleu gives for the same sentences
// (tests/golden/make_scores.py), against sums by hand, and with bad input.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "core/base/random.h"
#include "core/train/bleu.h"
#include "core/train/chrf.h"
#include "core/train/edit_distance.h"
#include "core/train/ngram_matches.h"
#include "core/train/sentence_pairs.h"
#include "core/train/unicode_text.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

using Sentences = std::vector<std::string>;

const std::string kFolder = std::string(T2R_SOURCE_DIR) + "/tests/golden/scores/";

const nlohmann::json& expected() {
  static const nlohmann::json content = [] {
    std::ifstream in(kFolder + "expected.json");
    return nlohmann::json::parse(in);
  }();
  return content;
}

void expect_scores(const nlohmann::json& row, const Sentences& hypotheses,
                   const Sentences& references) {
  const bool lowercase = row["lowercase"];
  const std::string tokenize = row["tokenize"];
  SCOPED_TRACE(row["set"].get<std::string>() + " " + row["signature"].get<std::string>());
  const BleuResult bleu =
      row["compound_split"]
          ? compound_split_bleu(hypotheses, references, lowercase, tokenize == "none")
          : corpus_bleu(hypotheses, references, {parse_score_tokenization(tokenize), lowercase});
  EXPECT_NEAR(bleu.score, row["bleu"].get<double>(), 1e-9);
  for (std::size_t n = 0; n < 4; ++n)
    EXPECT_NEAR(bleu.precisions[n], row["precisions"][n].get<double>(), 1e-9);
  EXPECT_NEAR(bleu.brevity_penalty, row["brevity_penalty"].get<double>(), 1e-12);
  EXPECT_EQ(bleu.hypothesis_length, row["lengths"][0]);
  EXPECT_EQ(bleu.reference_length, row["lengths"][1]);
  EXPECT_EQ(bleu.signature, row["signature"]);
  const ChrfResult chrf = corpus_chrf(hypotheses, references, lowercase);
  EXPECT_NEAR(chrf.score, row["chrf"].get<double>(), 1e-9);
  EXPECT_EQ(chrf.signature, row["chrf_signature"]);
}

TEST(ScoresGolden, EveryTokenizationInFourSets) {
  std::map<std::string, int> sets;
  for (const auto& row : expected()["scores"]) {
    const std::string set = row["set"];
    ++sets[set];
    expect_scores(row, read_sentences(kFolder + set + ".hyp"),
                  read_sentences(kFolder + set + ".ref"));
  }
  EXPECT_EQ(sets, (std::map<std::string, int>{{"de", 14}, {"fr", 14}, {"odd", 14}, {"zh", 14}}));
}

TEST(ScoresGolden, NothingRightAndNothingAtAll) {
  EXPECT_EQ(expected()["small"].size(), 16u);
  for (const auto& row : expected()["small"])
    expect_scores(row, row["hypotheses"].get<Sentences>(), row["references"].get<Sentences>());
}

TEST(ScoresGolden, Tokens) {
  EXPECT_GT(expected()["tokens"].size(), 100u);
  for (const auto& row : expected()["tokens"]) {
    const ScoreTokenizer tokenizer(parse_score_tokenization(row["tokenize"].get<std::string>()));
    EXPECT_EQ(tokenizer(row["sentence"].get<std::string>()), row["tokens"].get<Sentences>())
        << row["tokenize"] << ": " << row["sentence"];
  }
}

TEST(ScoresGolden, LowerCase) {
  for (const auto& row : expected()["lower"])
    EXPECT_EQ(lower_case(row[0].get<std::string>()), row[1].get<std::string>());
}

TEST(Scores, CompoundTokens) {
  const auto tokens = [](const std::string& sentence, bool tokenised = false) {
    std::string joined;
    for (const std::string& token : CompoundTokenizer(tokenised)(sentence))
      joined += (joined.empty() ? "" : " ") + token;
    return joined;
  };
  EXPECT_EQ(
      tokens("Die 5-jährige E-Mail-Ära (von-bis)."),
      "Die 5 ##AT##-##AT## jährige E ##AT##-##AT## Mail ##AT##-##AT## Ära ( von ##AT##-##AT## "
      "bis ) .");
  EXPECT_EQ(tokens("a-b-c Not-, -3 - x"), "a ##AT##-##AT## b ##AT##-##AT## c Not- , -3 - x");
  // What is tokenised already is cut at compounds only.
  EXPECT_EQ(tokens("U.S. x-y &quot; (a)", true), "U.S. x ##AT##-##AT## y &quot; (a)");
}

TEST(Scores, SumsByHand) {
  // Two of four words, one of three pairs; then smoothing: 1/2 of 2 triples, 1/4 of 1 quadruple.
  const BleuResult bleu = corpus_bleu(Sentences{"a b v w"}, Sentences{"a b c d e"});
  const double penalty = std::exp(1 - 5.0 / 4);
  EXPECT_NEAR(bleu.brevity_penalty, penalty, 1e-12);
  EXPECT_NEAR(bleu.score,
              100 * penalty * std::pow(2.0 / 4 * (1.0 / 3) * (0.5 / 2) * (0.25 / 1), 0.25), 1e-9);
  // A repeated word counts as often as the reference has it.
  EXPECT_NEAR(corpus_bleu(Sentences{"the the the the"}, Sentences{"the cat the dog"}).precisions[0],
              50, 1e-12);
  // "ab" against "abc": precision 1 and 1, recall 2/3 and 1/2; no order above 2 counts.
  const double recall = (2.0 / 3 + 1.0 / 2) / 2;
  EXPECT_NEAR(corpus_chrf(Sentences{"a b"}, Sentences{"abc"}).score,
              100 * 5 * recall / (4 + recall), 1e-9);
}

TEST(Scores, MatchesEqualTheSimplestCount) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    std::array<std::vector<std::uint32_t>, 2> sequences;
    const std::size_t lengths[] = {seed % 7, (seed * 5) % 23};
    for (std::size_t side = 0; side < 2; ++side)
      for (std::size_t i = 0; i < lengths[side]; ++i)
        sequences[side].push_back((seed * 31 + i * i * (side + 3) + i / 3) % 3);
    const NgramMatches matches = match_ngrams(sequences[0], sequences[1], kMaxNgramOrder);
    for (std::size_t n = 1; n <= kMaxNgramOrder; ++n) {
      std::map<std::vector<std::uint32_t>, std::array<std::int64_t, 2>> counts;
      std::array<std::int64_t, 2> totals{};
      for (std::size_t side = 0; side < 2; ++side)
        for (std::size_t i = 0; i + n <= sequences[side].size(); ++i) {
          const auto begin = sequences[side].begin() + static_cast<std::ptrdiff_t>(i);
          ++counts[{begin, begin + static_cast<std::ptrdiff_t>(n)}][side];
          ++totals[side];
        }
      std::int64_t both = 0;
      for (const auto& [ngram, count] : counts) both += std::min(count[0], count[1]);
      EXPECT_EQ(matches.both[n - 1], both) << seed << " " << n;
      EXPECT_EQ(matches.first[n - 1], totals[0]);
      EXPECT_EQ(matches.second[n - 1], totals[1]);
    }
  }
}

/// Every way to get there, without memory of the parts.
std::int64_t plain_edit_distance(std::u32string_view a, std::u32string_view b) {
  if (a.empty() || b.empty()) return std::ssize(a) + std::ssize(b);
  const auto rest_a = a.substr(1), rest_b = b.substr(1);
  if (a[0] == b[0]) return plain_edit_distance(rest_a, rest_b);
  return 1 + std::min({plain_edit_distance(rest_a, rest_b), plain_edit_distance(rest_a, b),
                       plain_edit_distance(a, rest_b)});
}

TEST(Scores, EditDistanceEqualsTheSimplestOne) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("", "äöü"), 3);
  EXPECT_EQ(edit_distance("äöü", "äü"), 1);
  for (std::uint64_t i = 0; i < 300; ++i) {
    std::string texts[2];
    for (std::uint64_t side = 0; side < 2; ++side)
      for (std::uint64_t c = 0; c < random_bits(1, side, i)[0] % 7; ++c)
        append_utf8(texts[side], U"aéж字"[random_bits(2, side, 10 * i + c)[0] % 4]);
    EXPECT_EQ(edit_distance(texts[0], texts[1]),
              plain_edit_distance(decode_utf8(texts[0]), decode_utf8(texts[1])))
        << texts[0] << " " << texts[1];
  }
}

TEST(Scores, CharacterErrors) {
  const Sentences references{"abcd", "Éf", "gh"}, hypotheses{"abxd", "éf", "gh"};
  const CharacterErrors cased = corpus_character_errors(hypotheses, references);
  EXPECT_DOUBLE_EQ(cased.error_rate, 100 * 2.0 / 8);
  EXPECT_DOUBLE_EQ(cased.exact_match, 100 / 3.0);
  const CharacterErrors lower = corpus_character_errors(hypotheses, references, true);
  EXPECT_DOUBLE_EQ(lower.error_rate, 100 * 1.0 / 8);
  EXPECT_DOUBLE_EQ(lower.exact_match, 200 / 3.0);
  EXPECT_DOUBLE_EQ(corpus_character_errors(Sentences{""}, Sentences{""}).error_rate, 0);
  EXPECT_NE(error_of([] { (void)corpus_character_errors(Sentences{"a"}, Sentences{}); }), "");
}

TEST(Scores, BadInput) {
  const Sentences two{"a", "b"}, three{"a", "b", "c"}, none, broken{"fine", "also", "a\xFFz"};
  EXPECT_ERROR(corpus_bleu(two, three), "2 hypotheses and 3 references");
  EXPECT_ERROR(corpus_chrf(three, two), "3 hypotheses and 2 references");
  EXPECT_ERROR(compound_split_bleu(none, none), "no sentences");
  EXPECT_ERROR(corpus_bleu(broken, three),
               "line 3 of the hypotheses is not valid UTF-8: byte 0xFF");
  EXPECT_ERROR(corpus_chrf(three, broken), "line 3 of the references");
  EXPECT_ERROR(parse_score_tokenization("14a"), "'14a'");
  try {
    corpus_bleu(two, three);
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), kExitUsage);
  }
}

TEST(Scores, LinesEndAtLineFeedsOnly) {
  const TemporaryFolder folder;
  const auto lines = [&](const std::string& content) {
    put(folder / "lines", content);
    return read_sentences(folder / "lines");
  };
  EXPECT_EQ(lines("a\r\nb\x0B\x0C\xE2\x80\xA8"
                  "c\n\nd"),
            (Sentences{"a\r",
                       "b\x0B\x0C\xE2\x80\xA8"
                       "c",
                       "", "d"}));
  EXPECT_EQ(lines("a\n"), Sentences{"a"});
  EXPECT_EQ(lines("\n"), Sentences{""});
  EXPECT_EQ(lines(""), Sentences{});
  EXPECT_ERROR(read_sentences(folder / "missing"), "missing");
  EXPECT_ERROR(lines("\x1F\x8B\x08"), "truncated");
}

TEST(Scores, ATestSetTakesWellUnderASecond) {
  Sentences hypotheses, references;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    std::string& hypothesis = hypotheses.emplace_back();
    for (std::uint64_t word = 0; word < 25; ++word)
      hypothesis += "wort" + std::to_string((i * 7919 + word * word * 104729) % 20000) + " ";
    references.push_back(hypothesis.substr(5) + ".");
  }
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_GT(corpus_bleu(hypotheses, references, {ScoreTokenization::international, true}).score,
            50);
  EXPECT_GT(corpus_chrf(hypotheses, references).score, 50);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 5);  // 0.2 s; a quadratic count would take minutes
}

}  // namespace
}  // namespace t2r
