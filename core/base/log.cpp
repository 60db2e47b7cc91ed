#include "core/base/log.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <mutex>

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;

std::mutex mutex;
int this_rank = 0, rank_count = 1;
bool live_line = false;  // an unfinished progress line is on the terminal
Clock::time_point last_progress{};

void clear_live_line() {
  if (live_line) std::fputs("\r\033[K", stderr);
  live_line = false;
}

}  // namespace

void log_rank(int rank, int size) {
  this_rank = rank;
  rank_count = size;
}

bool log_is_leader() {
  return this_rank == 0;
}

void log_line(const char* level, const std::string& text) {
  const std::lock_guard lock(mutex);
  clear_live_line();
  const bool with_rank = *level && rank_count > 1;
  const std::string who = with_rank ? fmt::format("[rank {}] ", this_rank) : std::string();
  std::fputs(fmt::format("{}{}{}\n", who, level, text).c_str(), stderr);
}

void progress(const std::string& text, bool last, double plain_seconds) {
  if (!log_is_leader()) return;
  const std::lock_guard lock(mutex);
  const bool terminal = isatty(STDERR_FILENO) == 1;
  const auto now = Clock::now();
  const double since = std::chrono::duration<double>(now - last_progress).count();
  if (!last && since < (terminal ? 0.1 : plain_seconds)) return;
  last_progress = now;
  clear_live_line();
  std::fputs(text.c_str(), stderr);
  if (terminal && !last)
    live_line = true;
  else
    std::fputc('\n', stderr);
  std::fflush(stderr);
}

}  // namespace t2r
