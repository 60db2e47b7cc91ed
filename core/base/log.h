// Messages and progress for a person, on standard error. Results never go through here.
#pragma once

#include <fmt/format.h>

#include <string>

namespace t2r {

/// Sets the rank shown in warnings, and silences info lines on all ranks but 0.
void log_rank(int rank, int size);

/// False on ranks other than 0.
bool log_is_leader();

void log_line(const char* level, const std::string& text);

/// A plain line; rank 0 only.
template <class... Args>
void info(fmt::format_string<Args...> text, Args&&... args) {
  if (log_is_leader()) log_line("", fmt::format(text, std::forward<Args>(args)...));
}

/// A line that begins with "warning:" and the rank; every rank.
template <class... Args>
void warn(fmt::format_string<Args...> text, Args&&... args) {
  log_line("warning: ", fmt::format(text, std::forward<Args>(args)...));
}

/// The live progress line: on a terminal it replaces itself, elsewhere a plain line appears at most
/// every `plain_seconds`. Rank 0 only. `last` forces it out and ends the line.
void progress(const std::string& text, bool last = false, double plain_seconds = 10.0);

}  // namespace t2r
