// t2r evaluate without a model: translation scores of a file of hypotheses.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace t2r {

struct ScoreFiles {
  std::string hypotheses, references, tokenize = "13a";
  bool lowercase = false, compound_split = false;
};

/// Adds --hypotheses, --references, --tokenize, --lowercase and --compound-split.
/// `files` outlives `app`.
void add_score_options(CLI::App& app, ScoreFiles& files);

/// Prints BLEU, chrF and the signatures that say how they were counted.
void score_files(const ScoreFiles& files, bool json);

}  // namespace t2r
