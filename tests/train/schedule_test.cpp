// Schedules against their closed forms, written out update by update.
#include "core/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"

namespace t2r {
namespace {

Schedule schedule(ScheduleKind kind) {
  Schedule s;
  s.kind = kind;
  s.peak = 0.8;
  s.final_ratio = 0.25;
  s.warmup_steps = 4;
  s.total_steps = 10;
  s.restart_period = 3;
  return s;
}

TEST(Schedule, WarmUpIsLinearAndEndsAtThePeak) {
  for (auto kind : {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::inverse_sqrt,
                    ScheduleKind::cosine_restarts}) {
    const Schedule s = schedule(kind);
    EXPECT_DOUBLE_EQ(s.at(1), 0.2);
    EXPECT_DOUBLE_EQ(s.at(2), 0.4);
    EXPECT_DOUBLE_EQ(s.at(3), 0.6);
    EXPECT_DOUBLE_EQ(s.at(4), 0.8);
    EXPECT_LE(s.at(5), 0.8);
  }
}

TEST(Schedule, Constant) {
  EXPECT_DOUBLE_EQ(schedule(ScheduleKind::constant).at(5), 0.8);
  EXPECT_DOUBLE_EQ(schedule(ScheduleKind::constant).at(1000000), 0.8);
  Schedule s = schedule(ScheduleKind::constant);
  s.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(s.at(1), 0.8);
}

TEST(Schedule, CosineEndsAtItsFinalValueOnTheLastUpdate) {
  const Schedule s = schedule(ScheduleKind::cosine);
  EXPECT_DOUBLE_EQ(s.at(7), 0.5);  // half way between 0.8 and 0.2
  EXPECT_DOUBLE_EQ(s.at(5), 0.2 + 0.6 * 0.5 * (1 + std::cos(M_PI / 6)));
  EXPECT_GT(s.at(9), 0.2 + 1e-3);
  EXPECT_DOUBLE_EQ(s.at(10), 0.2);
  EXPECT_DOUBLE_EQ(s.at(11), 0.2);
  Schedule only_warm_up = s;
  only_warm_up.total_steps = 4;
  EXPECT_DOUBLE_EQ(only_warm_up.at(4), 0.8);
}

TEST(Schedule, InverseSquareRoot) {
  const Schedule s = schedule(ScheduleKind::inverse_sqrt);
  EXPECT_DOUBLE_EQ(s.at(16), 0.4);
  EXPECT_DOUBLE_EQ(s.at(5), 0.8 * std::sqrt(4.0 / 5.0));
  Schedule no_warm_up = s;
  no_warm_up.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(no_warm_up.at(1), 0.8);
  EXPECT_DOUBLE_EQ(no_warm_up.at(4), 0.4);
}

TEST(Schedule, CosineWithRestartsComesBackToThePeak) {
  const Schedule s = schedule(ScheduleKind::cosine_restarts);
  EXPECT_DOUBLE_EQ(s.at(5), 0.2 + 0.6 * 0.5 * (1 + std::cos(M_PI / 3)));
  EXPECT_DOUBLE_EQ(s.at(6), 0.2 + 0.6 * 0.5 * (1 + std::cos(2 * M_PI / 3)));
  EXPECT_DOUBLE_EQ(s.at(7), 0.8);
  EXPECT_DOUBLE_EQ(s.at(8), s.at(5));
  EXPECT_DOUBLE_EQ(s.at(10), 0.8);
}

TEST(Schedule, NamesAndBadInput) {
  for (auto kind : {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::inverse_sqrt,
                    ScheduleKind::cosine_restarts})
    EXPECT_EQ(parse_schedule(name_of(kind)), kind);
  EXPECT_THROW(parse_schedule("linear"), Error);
  EXPECT_THROW(schedule(ScheduleKind::cosine).at(0), Error);
  const auto rejects = [](auto change) {
    Schedule s = schedule(ScheduleKind::cosine_restarts);
    change(s);
    EXPECT_THROW(s.validate(), Error);
  };
  schedule(ScheduleKind::cosine_restarts).validate();
  rejects([](Schedule& s) { s.peak = -1; });
  rejects([](Schedule& s) { s.peak = std::nan(""); });
  rejects([](Schedule& s) { s.final_ratio = 1.5; });
  rejects([](Schedule& s) { s.warmup_steps = -1; });
  rejects([](Schedule& s) { s.restart_period = 0; });
  rejects([](Schedule& s) { s.kind = ScheduleKind::cosine, s.total_steps = 0; });
}

}  // namespace
}  // namespace t2r
