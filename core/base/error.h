// How t2r fails: one exception type whose text is the sentence that the user reads.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace t2r {

/// Exit statuses of every command.
enum ExitStatus : int {
  kExitDone = 0,
  kExitFailure = 1,
  kExitUsage = 2,         // wrong usage or configuration
  kExitSavedStopped = 75  // state saved after a stop request: requeue the job (EX_TEMPFAIL)
};

/// A failure with one sentence: what happened, with the values, and what to do.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& sentence, ExitStatus status = kExitFailure)
      : std::runtime_error(sentence), status_(status) {}
  ExitStatus status() const { return status_; }

 private:
  ExitStatus status_;
};

/// Throws Error(sentence) with exit status 1.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> sentence, Args&&... args) {
  throw Error(fmt::format(sentence, std::forward<Args>(args)...));
}

/// Throws Error(sentence) with exit status 2: the user's flags or configuration are wrong.
template <class... Args>
[[noreturn]] void fail_usage(fmt::format_string<Args...> sentence, Args&&... args) {
  throw Error(fmt::format(sentence, std::forward<Args>(args)...), kExitUsage);
}

/// Throws unless `condition` holds.
template <class... Args>
void check(bool condition, fmt::format_string<Args...> sentence, Args&&... args) {
  if (!condition) [[unlikely]]
    fail(sentence, std::forward<Args>(args)...);
}

/// As check, for what the user asked for (exit status 2).
template <class... Args>
void check_usage(bool condition, fmt::format_string<Args...> sentence, Args&&... args) {
  if (!condition) [[unlikely]]
    fail_usage(sentence, std::forward<Args>(args)...);
}

}  // namespace t2r
