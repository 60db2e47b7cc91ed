#include "core/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/base/error.h"

namespace t2r {
namespace {

/// From 1 at share 0 to `floor` at share 1.
double cosine_between(double share, double floor) {
  return floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * std::min(share, 1.0)));
}

}  // namespace

ScheduleKind parse_schedule(const std::string& name) {
  for (ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::cosine,
                            ScheduleKind::inverse_sqrt, ScheduleKind::cosine_restarts})
    if (name == name_of(kind)) return kind;
  fail_usage("unknown schedule '{}': choose constant, cosine, inverse-sqrt or cosine-restarts",
             name);
}

const char* name_of(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::constant:
      return "constant";
    case ScheduleKind::cosine:
      return "cosine";
    case ScheduleKind::inverse_sqrt:
      return "inverse-sqrt";
    case ScheduleKind::cosine_restarts:
      break;
  }
  return "cosine-restarts";
}

double Schedule::at(std::int64_t update) const {
  check(update >= 1, "the learning rate of update {}: updates are counted from 1", update);
  const auto u = static_cast<double>(update);
  if (update <= warmup_steps) return peak * u / static_cast<double>(warmup_steps);
  const auto t = static_cast<double>(update - warmup_steps);
  switch (kind) {
    case ScheduleKind::constant:
      return peak;
    case ScheduleKind::cosine:
      if (total_steps <= warmup_steps) return peak * final_ratio;
      return peak *
             cosine_between(t / static_cast<double>(total_steps - warmup_steps), final_ratio);
    case ScheduleKind::inverse_sqrt:
      return peak * std::sqrt(static_cast<double>(std::max<std::int64_t>(warmup_steps, 1)) / u);
    case ScheduleKind::cosine_restarts:
      break;
  }
  const auto period = static_cast<double>(restart_period);
  return peak * cosine_between(std::fmod(t, period) / period, final_ratio);
}

void Schedule::validate() const {
  check_usage(std::isfinite(peak) && peak >= 0, "the learning rate is {}: it must be 0 or more",
              peak);
  check_usage(final_ratio >= 0 && final_ratio <= 1,
              "the final learning rate is {} of the peak: it must lie in [0, 1]", final_ratio);
  check_usage(warmup_steps >= 0, "{} warm-up updates: there must be 0 or more", warmup_steps);
  check_usage(kind != ScheduleKind::cosine || total_steps >= 1,
              "the cosine schedule needs the number of updates, which is {}", total_steps);
  check_usage(kind != ScheduleKind::cosine_restarts || restart_period >= 1,
              "the schedule cosine-restarts needs a restart period of at least 1 update, not {}",
              restart_period);
}

}  // namespace t2r
