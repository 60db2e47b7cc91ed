// What a report shows, and its three forms: table, JSON and one HTML file.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/model/cost.h"

namespace t2r {

/// Loss along a run: (tokens, FLOPs, nats a token).
struct CurvePoint {
  double tokens = 0, flops = 0, loss = 0;
};

/// Quality on one split.
struct SplitQuality {
  std::string split;
  double loss = 0, perplexity_per_token = 0;
  std::optional<double> perplexity_per_word;
};

struct ReportRun {
  std::string name, folder;
  std::string attention;  // "softmax", "t2r", "t2r, softmax in 1 of 4 layers", ...
  std::string start;      // "scratch" or "converted"; "pretrained" for a softmax model trained on
  bool linear = false;    // has swapped layers
  std::int64_t parameters = 0;
  double tokens = 0, flops = 0, rank_seconds = 0;
  std::optional<double> joules, price;
  std::vector<SplitQuality> quality;  // the first is the one compared
  std::optional<double> bleu, chrf;   // of translations
  std::vector<CurvePoint> training, validation;
  std::int64_t sequence_length = 0;
  std::vector<OperationCost> operations;  // of one pass over a sequence of sequence_length
};

/// Decoding speed of one run's model at one length.
struct DecodingPoint {
  std::string name;
  std::int64_t length = 0;
  double tokens_per_second = 0, state_bytes = 0;
};

struct Report {
  std::vector<ReportRun> runs;
  int baseline = -1;  // the run whose cost is 1; -1: none
  int teacher = -1;   // the softmax model that losses are compared with; -1: none
  std::vector<DecodingPoint> decoding;
  std::int64_t decoding_batch = 1;
};

/// Reads RUN/summary.json, metrics.jsonl and, where there are any, evaluation-SPLIT.json and
/// scores.json (what `t2r evaluate --json` prints, of a split and of translations). Throws one
/// sentence when the folder is no finished run.
ReportRun read_run(const std::string& folder);

/// Chooses teacher and baseline: the softmax run, and the linear run from scratch, that cost most.
/// `baseline` (a run's name or folder), where not empty, is taken instead; a usage error when there
/// is none of that name.
void choose_references(Report& report, const std::string& baseline);

/// Cost of a run over that of the baseline; empty without a baseline.
std::optional<double> cost_share(const Report& report, double ReportRun::*cost,
                                 const ReportRun& run);

/// Whether any run's translations were scored.
bool has_scores(const Report& report);

/// Loss of a run minus that of the teacher; empty without one.
std::optional<double> gap_to_teacher(const Report& report, const ReportRun& run);

nlohmann::ordered_json report_json(const Report& report);
std::string report_table(const Report& report);
std::string report_html(const Report& report);
/// A sentence for each converted run: its loss beside baseline and teacher, and its cost.
std::vector<std::string> report_conclusions(const Report& report);

}  // namespace t2r
