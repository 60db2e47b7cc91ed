// How a run is followed: metrics.jsonl and the live line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace t2r {

/// RUN/metrics.jsonl: one JSON object a line and update.
class MetricsFile {
 public:
  /// Opens for appending. Lines of updates after `resumed_step` (from a part of the run that is
  /// trained again), and half a line at the end, are removed first.
  MetricsFile(const std::string& path, std::int64_t resumed_step);
  ~MetricsFile();
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;

  /// One write() a line, so that a reader never sees half of an older one. `line` has a "step".
  void append(const nlohmann::json& line);

 private:
  std::string path_;
  int descriptor_ = -1;
};

struct ProgressFigures {
  std::int64_t step = 0, total_steps = 0;
  double loss = 0;                   // nats a token
  double tokens_per_second = 0;      // all ranks together
  double flops_per_second = 0;       // all ranks together
  double peak_flops_per_second = 0;  // measured matrix products, all ranks; 0: unknown
  double seconds_left = 0;
};

/// "step 120/1000  loss 3.412  12,400 tokens/s  41% of peak  3 min left".
std::string progress_text(const ProgressFigures& figures);

/// 75 -> "1 min 15 s"; hours and days where it is long.
std::string duration_text(double seconds);

}  // namespace t2r
