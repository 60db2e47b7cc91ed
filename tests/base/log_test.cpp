// Messages: who may speak, and how progress looks where no terminal is.
#include "core/base/log.h"

#include <gtest/gtest.h>

namespace t2r {
namespace {

class Log : public testing::Test {
 protected:
  ~Log() override { log_rank(0, 1); }

  template <class F>
  static std::string written(F&& f) {
    testing::internal::CaptureStderr();
    f();
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(Log, OneRankSpeaksPlainly) {
  log_rank(0, 1);
  EXPECT_EQ(written([] { info("step {}", 3); }), "step 3\n");
  EXPECT_EQ(written([] { warn("disk {}", "full"); }), "warning: disk full\n");
}

TEST_F(Log, OnlyTheLeaderInformsButAllWarn) {
  log_rank(1, 4);
  EXPECT_FALSE(log_is_leader());
  EXPECT_EQ(written([] { info("step {}", 3); }), "");
  EXPECT_EQ(written([] { progress("step 3", true); }), "");
  EXPECT_EQ(written([] { warn("slow"); }), "[rank 1] warning: slow\n");
  log_rank(0, 4);
  EXPECT_TRUE(log_is_leader());
  EXPECT_EQ(written([] { info("step {}", 3); }), "step 3\n");
  EXPECT_EQ(written([] { warn("slow"); }), "[rank 0] warning: slow\n");
}

TEST_F(Log, WithoutATerminalProgressIsNowAndThen) {
  log_rank(0, 1);
  const std::string text = written([] {
    progress("first", true);  // forced out whatever came before
    progress("too soon", false, 3600);
    progress("due", false, 0);
    progress("last", true, 3600);
  });
  EXPECT_EQ(text, "first\ndue\nlast\n");
}

}  // namespace
}  // namespace t2r
