#include "core/train/machine.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/base/arena.h"
#include "core/base/random.h"
#include "kernels/linear.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::optional<double> read_number(const std::string& path) {
  std::ifstream file(path);
  double value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

}  // namespace

double measure_gemm_rate(DType dtype, double seconds) {
  constexpr std::int64_t n = 512;
  Arena arena(4 * n * n * size_of(dtype) + (1 << 20));
  const Tensor x = arena.allocate({n, n}, dtype), y = arena.allocate({n, n}, dtype),
               weight = arena.allocate({n, n}, dtype);
  dispatch(dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < n * n; ++i) {
      const auto counter = static_cast<std::uint64_t>(i);
      x.as<T>()[i] = static_cast<T>(static_cast<float>(random_uniform(1, 0, counter)));
      weight.as<T>()[i] = static_cast<T>(static_cast<float>(random_uniform(1, 1, counter)));
    }
  });
  const LinearWeight packed(weight);
  linear_forward({}, y, x, packed);  // packs the weight and touches the memory
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 3 || seconds_since(start) < seconds) {
    const auto begin = Clock::now();
    linear_forward({}, y, x, packed);
    times.push_back(seconds_since(begin));
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return 2.0 * n * n * n / times[times.size() / 2];
}

std::int64_t machine_memory_bytes() {
  return static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

std::int64_t peak_memory_bytes() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line, name = "unknown processor";
  while (std::getline(file, line))
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) {
      name = line.substr(line.find(": ") + 2);
      break;
    }
  return fmt::format("{}, {} cores", name, std::thread::hardware_concurrency());
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown host";
}

bool first_rank_on_host(Comm& comm) {
  const std::string mine = host_name();
  bool first = true;
  for (int rank = 0; rank < comm.size(); ++rank) {
    const std::string other = comm.broadcast_text(mine, rank);
    if (rank < comm.rank() && other == mine) first = false;
  }
  return first;
}

EnergyMeter::EnergyMeter(const std::string& root) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    // intel-rapl:0 is a package; intel-rapl:0:1 a part of it that would be counted twice, and
    // intel-rapl-mmio the same package by another way.
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("intel-rapl:") || std::count(name.begin(), name.end(), ':') != 1)
      continue;
    Counter counter;
    counter.path = entry.path().string() + "/energy_uj";
    const auto now = read_number(counter.path);
    if (!now) continue;  // readable for root only on many systems
    counter.last = *now;
    counter.range = read_number(entry.path().string() + "/max_energy_range_uj").value_or(0);
    counters_.push_back(counter);
  }
}

std::optional<double> EnergyMeter::joules() {
  if (counters_.empty()) return std::nullopt;
  double sum = 0;
  for (Counter& counter : counters_) {
    const double now = read_number(counter.path).value_or(counter.last);
    double spent = now - counter.last;
    if (spent < 0) spent += counter.range;  // wrapped
    counter.total += std::max(spent, 0.0);
    counter.last = now;
    sum += counter.total;
  }
  return sum * 1e-6;
}

}  // namespace t2r
