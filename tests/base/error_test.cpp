// Errors carry one sentence and an exit status.
#include "core/base/error.h"

#include <gtest/gtest.h>

namespace t2r {
namespace {

template <class F>
Error caught(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error("");
}

TEST(Error, SentencesAndStatuses) {
  const Error failure = caught([] { fail("{} of {} ranks", 3, 4); });
  EXPECT_STREQ(failure.what(), "3 of 4 ranks");
  EXPECT_EQ(failure.status(), kExitFailure);
  const Error usage = caught([] { fail_usage("no flag '{}'", "--x"); });
  EXPECT_STREQ(usage.what(), "no flag '--x'");
  EXPECT_EQ(usage.status(), kExitUsage);
}

TEST(Error, ChecksThrowOnlyWhenTheConditionFails) {
  EXPECT_NO_THROW(check(true, "never {}", 1));
  EXPECT_NO_THROW(check_usage(true, "never {}", 1));
  EXPECT_EQ(caught([] { check(false, "width {}", 7); }).status(), kExitFailure);
  EXPECT_EQ(caught([] { check_usage(false, "width {}", 7); }).status(), kExitUsage);
  EXPECT_STREQ(caught([] { check(false, "width {}", 7); }).what(), "width 7");
}

/// Numbers that scripts and job systems rely on.
TEST(Error, ExitStatuses) {
  EXPECT_EQ(kExitDone, 0);
  EXPECT_EQ(kExitFailure, 1);
  EXPECT_EQ(kExitUsage, 2);
  EXPECT_EQ(kExitSavedStopped, 75);
}

}  // namespace
}  // namespace t2r
