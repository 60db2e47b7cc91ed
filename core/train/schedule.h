// The learning rate of each update.
#pragma once

#include <cstdint>
#include <string>

namespace t2r {

enum class ScheduleKind : std::uint8_t { constant, cosine, inverse_sqrt, cosine_restarts };

/// "constant", "cosine", "inverse-sqrt" or "cosine-restarts"; anything else is a usage error.
ScheduleKind parse_schedule(const std::string& name);
const char* name_of(ScheduleKind kind);

/// Updates are counted from 1. All kinds begin with a linear warm-up, peak * u / warmup_steps for
/// u <= warmup_steps (no warm-up: update 1 is past it); then, with t = u - warmup_steps:
///   constant         peak
///   cosine           from peak at t = 0 to final_ratio * peak at u = total_steps and after
///   inverse_sqrt     peak * sqrt(max(warmup_steps, 1) / u) (Vaswani et al. 2017)
///   cosine_restarts  the cosine over restart_period updates, again and again (Loshchilov and
///                    Hutter 2017): peak again at t = restart_period, 2 restart_period, ...
struct Schedule {
  ScheduleKind kind = ScheduleKind::cosine;
  double peak = 1e-3;
  double final_ratio = 0.1;
  std::int64_t warmup_steps = 0;
  std::int64_t total_steps = 0;     // cosine only
  std::int64_t restart_period = 0;  // cosine_restarts only

  /// The learning rate of update `update` >= 1.
  double at(std::int64_t update) const;
  /// Throws a usage error that names the first field that makes no sense.
  void validate() const;
};

}  // namespace t2r
