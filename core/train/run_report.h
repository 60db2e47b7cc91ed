// What a run writes for people and other programs while and after it trains. Rank 0 only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/train/metrics.h"
#include "core/train/tensorboard.h"
#include "core/train/trainer.h"
#include "kernels/linear_attention.h"

namespace t2r {

/// RUN/metrics.jsonl, RUN/tensorboard/ and the live line.
class RunReport {
 public:
  RunReport(const TrainOptions& options, const TrainState& state, double peak_flops_per_second);

  /// After each update. `health` has an entry a swapped layer, of this rank's first micro-batch, or
  /// none; `flush` also brings the event file up to date.
  void update(const StepFigures& figures, const TrainState& state,
              const std::optional<EvaluationResult>& validation,
              const std::vector<LinearAttentionHealth>& health, bool flush);

 private:
  TrainOptions options_;
  double peak_;
  MetricsFile metrics_;
  TensorBoardWriter events_;
  double seconds_per_update_ = 0;  // running averages
  double flops_per_update_ = 0, tokens_per_update_ = 0;
  double last_flops_ = 0;
};

/// RUN/summary.json (ARCHITECTURE, 6.2).
void write_summary(const TrainOptions& options, const ModelConfig& config, const Mesh& mesh,
                   const TrainSummary& summary);

}  // namespace t2r
