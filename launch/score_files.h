// Translation scores of sentences against references in files.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace t2r {

struct ScoreFiles {
  std::string hypotheses, source, references, tokenize = "13a";
  bool lowercase = false, compound_split = false;
};

/// Adds --hypotheses, --source, --references, --tokenize, --lowercase and --compound-split.
/// `files` outlives `app`.
void add_score_options(CLI::App& app, ScoreFiles& files);

/// Prints BLEU and chrF with the signatures that say how they were counted, and errors a character.
void score_files(const ScoreFiles& files, bool json);

/// The same for hypotheses in memory.
void score(const std::vector<std::string>& hypotheses, const ScoreFiles& files, bool json);

}  // namespace t2r
