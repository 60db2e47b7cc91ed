// What the machine does and uses: measured matrix-product rate, memory, processor energy.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "dist/comm.h"

namespace t2r {

/// FLOP/s of matrix products of 512 x 512 x 512 with a packed weight, this process's threads, the
/// median of about `seconds` of repeats: the peak that utilisation is measured against.
double measure_gemm_rate(DType dtype, double seconds = 0.2);

/// Address space that a work arena reserves: as much as the machine has memory.
std::int64_t machine_memory_bytes();

/// The most memory that this process has used, bytes.
std::int64_t peak_memory_bytes();

/// "AMD EPYC 9R45, 2 cores", or "unknown processor".
std::string processor_name();
std::string host_name();

/// True on the lowest rank of each host. Collective.
bool first_rank_on_host(Comm& comm);

/// Energy of the processor packages by their RAPL counters, where the system lets us read them.
class EnergyMeter {
 public:
  /// `root` is where the counters lie.
  explicit EnergyMeter(const std::string& root = "/sys/class/powercap");
  bool available() const { return !counters_.empty(); }
  /// Joules since construction, or nothing where there are no counters. Counters wrap after some
  /// minutes at full power: call at least once a minute.
  std::optional<double> joules();

 private:
  struct Counter {
    std::string path;
    double range = 0;  // microjoules
    double last = 0, total = 0;
  };
  std::vector<Counter> counters_;
};

}  // namespace t2r
