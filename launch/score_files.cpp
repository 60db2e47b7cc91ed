#include "launch/score_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/train/bleu.h"
#include "core/train/chrf.h"
#include "core/train/edit_distance.h"
#include "core/train/sentence_pairs.h"

namespace t2r {
namespace {

BleuResult bleu_of(const ScoreFiles& files, const std::vector<std::string>& hypotheses,
                   const std::vector<std::string>& references) {
  const ScoreTokenization tokenization = parse_score_tokenization(files.tokenize);
  if (!files.compound_split)
    return corpus_bleu(hypotheses, references, {tokenization, files.lowercase});
  const bool tokenised = tokenization == ScoreTokenization::none;
  check_usage(tokenised || tokenization == ScoreTokenization::mteval13a,
              "--compound-split goes with --tokenize 13a or none, not {}", files.tokenize);
  return compound_split_bleu(hypotheses, references, files.lowercase, tokenised);
}

void print_json(const BleuResult& bleu, const ChrfResult& chrf, const CharacterErrors& errors,
                std::size_t sentences) {
  const nlohmann::ordered_json out = {{"bleu", bleu.score},
                                      {"chrf", chrf.score},
                                      {"signature", bleu.signature},
                                      {"chrf_signature", chrf.signature},
                                      {"sentences", sentences},
                                      {"character_error_rate", errors.error_rate},
                                      {"exact_match", errors.exact_match},
                                      {"precisions", bleu.precisions},
                                      {"brevity_penalty", bleu.brevity_penalty}};
  fmt::print("{}\n", out.dump());
}

void print_text(const BleuResult& bleu, const ChrfResult& chrf, const CharacterErrors& errors,
                std::size_t sentences) {
  const auto& p = bleu.precisions;
  fmt::print(
      "BLEU {:.2f}: precisions {:.1f}/{:.1f}/{:.1f}/{:.1f}, brevity penalty {:.3f}, {} tokens "
      "against {}, {} sentences ({})\n",
      bleu.score, p[0], p[1], p[2], p[3], bleu.brevity_penalty, bleu.hypothesis_length,
      bleu.reference_length, sentences, bleu.signature);
  fmt::print("chrF {:.2f} ({})\n", chrf.score, chrf.signature);
  fmt::print("character error rate {:.2f} %, {:.2f} % of the sentences without an error\n",
             errors.error_rate, errors.exact_match);
}

}  // namespace

void add_score_options(CLI::App& app, ScoreFiles& files) {
  app.add_option("--hypotheses", files.hypotheses,
                 "Instead of a model: a file of translations, one a line, to score")
      ->type_name("FILE");
  app.add_option("--source", files.source,
                 "With --model: a file of sentences, one a line, whose translations are scored")
      ->type_name("FILE");
  app.add_option("--references", files.references,
                 "With --hypotheses or --source: the file of reference translations, one a line")
      ->type_name("FILE");
  app.add_option("--tokenize", files.tokenize,
                 "With --references: tokens of BLEU, 13a, zh (Chinese), intl, char or none");
  app.add_flag("--lowercase", files.lowercase,
               "With --references: upper and lower case are the same");
  app.add_flag("--compound-split", files.compound_split,
               "With --references: BLEU without smoothing on tokens with hyphenated compounds "
               "split, as English-German is reported");
}

void score_files(const ScoreFiles& files, bool json) {
  score(read_sentences(files.hypotheses), files, json);
}

void score(const std::vector<std::string>& hypotheses, const ScoreFiles& files, bool json) {
  const auto references = read_sentences(files.references);
  check_usage(hypotheses.size() == references.size(),
              "{} has {} lines and {} has {}: line N of one belongs to line N of the other",
              files.hypotheses.empty() ? files.source : files.hypotheses, hypotheses.size(),
              files.references, references.size());
  const BleuResult bleu = bleu_of(files, hypotheses, references);
  const ChrfResult chrf = corpus_chrf(hypotheses, references, files.lowercase);
  const CharacterErrors errors = corpus_character_errors(hypotheses, references, files.lowercase);
  (json ? print_json : print_text)(bleu, chrf, errors, hypotheses.size());
}

}  // namespace t2r
