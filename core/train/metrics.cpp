#include "core/train/metrics.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "data/atomic_file.h"

namespace t2r {
namespace {

/// The lines of `text` that are whole, valid and not past `step`.
std::string lines_up_to(const std::string& text, std::int64_t step) {
  std::string kept;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string line = text.substr(begin, end + 1 - begin);
    const auto object = nlohmann::json::parse(line, nullptr, false);
    if (object.is_object() && object.contains("step") && object["step"].is_number_integer() &&
        object["step"].get<std::int64_t>() <= step)
      kept += line;
    begin = end + 1;
  }
  return kept;
}

/// 12400 -> "12,400".
std::string grouped(double value) {
  const std::string digits = fmt::format("{:.0f}", value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

}  // namespace

MetricsFile::MetricsFile(const std::string& path, std::int64_t resumed_step) : path_(path) {
  if (access(path.c_str(), F_OK) == 0) {
    const std::string old = read_file(path, std::int64_t{1} << 40);
    const std::string kept = lines_up_to(old, resumed_step);
    if (kept != old) write_file_atomically(path, kept);
  }
  descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  check(descriptor_ >= 0, "cannot open {}: {}", path, std::strerror(errno));
}

MetricsFile::~MetricsFile() {
  close(descriptor_);
}

void MetricsFile::append(const nlohmann::json& line) {
  const std::string text = line.dump() + "\n";
  ssize_t n = 0;
  do {
    n = ::write(descriptor_, text.data(), text.size());
  } while (n < 0 && errno == EINTR);
  check(n == static_cast<ssize_t>(text.size()),
        "cannot append to {}: {}; free some space and start again, the run resumes from its last "
        "checkpoint",
        path_, n < 0 ? std::strerror(errno) : "the disk is full");
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "unknown time";
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
  return fmt::format("{} d {} h", s / 86400, s % 86400 / 3600);
}

std::string progress_text(const ProgressFigures& f) {
  std::string text =
      fmt::format("step {}/{}  loss {:.4f}  {} tokens/s  {:.1f} GFLOP/s", f.step, f.total_steps,
                  f.loss, grouped(f.tokens_per_second), f.flops_per_second * 1e-9);
  if (f.peak_flops_per_second > 0)
    text += fmt::format(" ({:.0f}% of peak)", 100 * f.flops_per_second / f.peak_flops_per_second);
  return text + "  " + duration_text(f.seconds_left) + " left";
}

}  // namespace t2r
