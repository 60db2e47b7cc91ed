// t2r doctor: what this machine and this job have, measured, and what to do about what is wrong.
#include <dnnl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <hdf5.h>
#include <mpi.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/log.h"
#include "core/train/equivalence.h"
#include "core/train/machine.h"
#include "dist/checking_comm.h"
#include "dist/mpi_comm.h"
#include "kernels/linear.h"
#include "launch/commands.h"
#include "launch/table.h"
#include "launch/version.h"

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct Options {
  int threads = 0;
  double write_mib = 64;
  RankOptions ranks;
  bool json = false, equivalence = false;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What is wrong, each with what to do.
using Advice = std::vector<std::string>;

std::string instruction_sets() {
  std::string sets;
  const auto add = [&](bool has, const char* name) {
    if (has) sets += (sets.empty() ? "" : " ") + std::string(name);
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  add(__builtin_cpu_supports("avx2"), "avx2");
  add(__builtin_cpu_supports("fma"), "fma");
  add(__builtin_cpu_supports("avx512f"), "avx512f");
  add(__builtin_cpu_supports("avx512vnni"), "avx512vnni");
  add(__builtin_cpu_supports("avx512bf16"), "avx512bf16");
#endif
  return sets.empty() ? "baseline" : sets;
}

Json library_versions() {
  Json versions;
  versions["t2r"] = version();
  char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(mpi, &length);
  const std::string text(mpi, static_cast<std::size_t>(length));
  versions["mpi"] = text.substr(0, text.find_first_of(",\n"));
  const dnnl_version_t* dnnl = dnnl_version();
  versions["oneDNN"] = fmt::format("{}.{}.{}", dnnl->major, dnnl->minor, dnnl->patch);
  unsigned major = 0, minor = 0, release = 0;
  check(H5get_libversion(&major, &minor, &release) >= 0, "HDF5 does not tell its version");
  versions["hdf5"] = fmt::format("{}.{}.{}", major, minor, release);
  versions["xxhash"] = fmt::format("{}", XXH_versionNumber());
  return versions;
}

/// The numbers of /proc/meminfo, in bytes.
double meminfo(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  std::string name;
  double value = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    words >> name >> value;
    if (name == key + ":") return value * 1024;
  }
  return 0;
}

int affinity_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

/// Checks and times matrix products in every precision; -1 where a check failed.
Json check_products(Advice& advice) {
  Json rates;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const std::string name(name_of(dtype));
    try {
      check_gemm(dtype);
      rates[name] = measure_gemm_rate(dtype) / 1e9;
    } catch (const std::exception& error) {
      rates[name] = -1;
      advice.push_back(
          fmt::format("matrix products in {} are wrong here ({}): do not train in it; "
                      "install another version of oneDNN",
                      name, error.what()));
    }
  }
  return rates;
}

/// One all-reduce that is compared with its known result, then the median of some timed ones, us.
double time_all_reduce(Comm& comm, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  const Tensor x(values.data(), Shape{count}, DType::f32);
  std::vector<double> times;
  for (int repeat = 0; repeat < 7; ++repeat) {
    for (std::int64_t i = 0; i < count; ++i)
      values[static_cast<std::size_t>(i)] = static_cast<float>((comm.rank() + 1) * (i % 7 + 1));
    comm.barrier();
    const auto start = Clock::now();
    comm.all_reduce(x, ReduceOp::sum, Queue{});
    times.push_back(seconds_since(start));
    const int sum = comm.size() * (comm.size() + 1) / 2;
    for (std::int64_t i = 0; i < count; ++i)
      check(values[static_cast<std::size_t>(i)] == static_cast<float>(sum * (i % 7 + 1)),
            "an all-reduce over {} ranks gave {} at element {}, expected {}: the MPI library or "
            "the network is broken",
            comm.size(), values[static_cast<std::size_t>(i)], i, sum * (i % 7 + 1));
  }
  std::nth_element(times.begin(), times.begin() + 3, times.end());
  return comm.all_reduce_value(times[3], ReduceOp::max) * 1e6;
}

Json check_communicator(Comm& comm, const std::string& name) {
  CheckingComm* checked = dynamic_cast<CheckingComm*>(&comm);
  const double small = time_all_reduce(comm, 1);
  const double large = time_all_reduce(comm, 1 << 18);
  return {{"name", name},
          {"kind", comm.kind()},
          {"ranks", comm.size()},
          {"checked", checked != nullptr},
          {"all_reduce_4_bytes_us", small},
          {"all_reduce_1_mib_us", large}};
}

/// Free space of the current folder and the speed of writing a file there, synced, MB/s.
Json check_disk(double mib, Advice& advice) {
  struct statvfs stat {};
  check(statvfs(".", &stat) == 0, "the current folder's disk cannot be asked for its free space");
  const double free = static_cast<double>(stat.f_bavail) * static_cast<double>(stat.f_frsize);
  Json disk = {{"folder", std::filesystem::current_path().string()}, {"free_bytes", free}};
  if (free < 2e9)
    advice.push_back(
        fmt::format("only {:.1f} GB of disk are free here: checkpoints may not fit", free / 1e9));
  const std::string path = fmt::format("t2r-doctor-{}.tmp", getpid());
  const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
  if (file < 0) {
    advice.push_back("no file can be written in the current folder: start runs elsewhere");
    return disk;
  }
  unlink(path.c_str());
  const std::vector<char> block(1 << 20, 'x');
  const auto start = Clock::now();
  bool written = true;
  for (int i = 0; i < static_cast<int>(mib) && written; ++i)
    written = write(file, block.data(), block.size()) == static_cast<ssize_t>(block.size());
  written = written && fsync(file) == 0;
  const double seconds = seconds_since(start);
  close(file);
  if (!written) {
    advice.push_back("writing to the current folder fails: its disk is full or broken");
    return disk;
  }
  disk["write_bytes_per_second"] = mib * 1048576 / seconds;
  if (mib * 1048576 / seconds < 2e7)
    advice.push_back("writing here is slower than 20 MB/s: checkpoints will cost time");
  return disk;
}

/// What one rank has.
Json examine_rank(const Session& session, int threads, Advice& advice) {
  const RankPlace& place = session.place();
  const double total = meminfo("MemTotal"), available = meminfo("MemAvailable");
  const int cores = affinity_cores();
  const int machine = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (place.local_size > 1 && cores < machine && threads > cores)
    advice.push_back(
        fmt::format("this rank may use {} of {} processors but has {} threads: start "
                    "with 'mpirun --bind-to none', or give --threads {}",
                    cores, machine, threads, cores));
  if (threads * place.local_size > machine)
    advice.push_back(fmt::format(
        "{} ranks with {} threads each share {} processors: give --threads {} or start fewer ranks",
        place.local_size, threads, machine, std::max(1, machine / place.local_size)));
  if (available > 0 && available < 1e9)
    advice.push_back(fmt::format("only {:.1f} GB of memory are available", available / 1e9));
  std::ifstream pages("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string setting;
  std::getline(pages, setting);
  if (setting.find("[never]") != std::string::npos)
    advice.push_back(
        "huge pages are off: as root, write 'madvise' to "
        "/sys/kernel/mm/transparent_hugepage/enabled; fresh memory is then faster");
  Json rank = {{"host", place.host},
               {"local_rank", place.local_rank},
               {"processor", processor_name()},
               {"instruction_sets", instruction_sets()},
               {"processors", machine},
               {"bound_to", cores},
               {"threads", threads},
               {"memory_bytes", total},
               {"available_bytes", available},
               {"energy_counters", EnergyMeter().available()}};
  rank["gemm_gflops"] = check_products(advice);
  return rank;
}

/// Each rank's text, on all ranks, in order of rank.
std::vector<std::string> gather_texts(Comm& comm, const std::string& text) {
  std::vector<std::string> texts;
  for (int root = 0; root < comm.size(); ++root)
    texts.push_back(comm.broadcast_text(comm.rank() == root ? text : std::string(), root));
  return texts;
}

void print_plain(const Json& result) {
  fmt::print("libraries:");
  for (const auto& [name, version] : result["libraries"].items())
    fmt::print(" {} {}{}", name, version.get<std::string>(),
               name == std::prev(result["libraries"].end()).key() ? "\n\n" : ",");
  std::vector<std::vector<std::string>> rows = {{"rank", "host", "processors", "bound to",
                                                 "threads", "GFLOP/s fp32", "bf16", "fp64",
                                                 "memory GB", "available"}};
  int number = 0;
  for (const Json& rank : result["ranks"])
    rows.push_back(
        {std::to_string(number++), rank["host"], std::to_string(rank["processors"].get<int>()),
         std::to_string(rank["bound_to"].get<int>()), std::to_string(rank["threads"].get<int>()),
         fmt::format("{:.0f}", rank["gemm_gflops"]["fp32"].get<double>()),
         fmt::format("{:.0f}", rank["gemm_gflops"]["bf16"].get<double>()),
         fmt::format("{:.0f}", rank["gemm_gflops"]["fp64"].get<double>()),
         fmt::format("{:.1f}", rank["memory_bytes"].get<double>() / 1e9),
         fmt::format("{:.1f}", rank["available_bytes"].get<double>() / 1e9)});
  fmt::print("{}\nprocessor: {}; {}\n\n", format_table(rows),
             result["ranks"][0]["processor"].get<std::string>(),
             result["ranks"][0]["instruction_sets"].get<std::string>());
  rows = {{"communicator", "kind", "ranks", "all-reduce 4 B (us)", "1 MiB (us)"}};
  for (const Json& comm : result["communicators"])
    rows.push_back({comm["name"], comm["kind"], std::to_string(comm["ranks"].get<int>()),
                    fmt::format("{:.1f}", comm["all_reduce_4_bytes_us"].get<double>()),
                    fmt::format("{:.0f}", comm["all_reduce_1_mib_us"].get<double>())});
  fmt::print("{}\n", format_table(rows));
  const Json& disk = result["disk"];
  fmt::print("disk: {:.1f} GB free in {}", disk["free_bytes"].get<double>() / 1e9,
             disk["folder"].get<std::string>());
  if (disk.contains("write_bytes_per_second"))
    fmt::print(", {:.0f} MB/s written and synced",
               disk["write_bytes_per_second"].get<double>() / 1e6);
  fmt::print("\n\n");
  if (result["advice"].empty()) fmt::print("all is well\n");
  for (const Json& advice : result["advice"]) fmt::print("advice: {}\n", advice.get<std::string>());
}

/// Tiny trainings on every mesh; fails when one differs from one rank's by more than rounding.
int run_equivalence(Session& session, const Options& options) {
  constexpr std::int64_t kSteps = 20;
  constexpr double kMost = 1e-10;
  session.set_ranks(options.ranks);
  Comm& world = session.world(true);
  const std::vector<Equivalence> found = measure_equivalence(world, kSteps);
  Json result = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"attention", "dp x cp x tp", "loss differs by", "parameters by"}};
  bool same = true;
  for (const Equivalence& row : found) {
    same = same && row.loss <= kMost && row.parameters <= kMost;
    rows.push_back({row.model, fmt::format("{} x {} x {}", row.dp, row.cp, row.tp),
                    fmt::format("{:.1e}", row.loss), fmt::format("{:.1e}", row.parameters)});
    result.push_back({{"attention", row.model},
                      {"dp", row.dp},
                      {"cp", row.cp},
                      {"tp", row.tp},
                      {"loss_difference", row.loss},
                      {"parameter_difference", row.parameters}});
  }
  if (world.rank() == 0) {
    if (options.json) {
      fmt::print("{}\n", result.dump());
    } else {
      fmt::print("{}\n{} updates in fp64 on {}, beside one rank\n", format_table(rows), kSteps,
                 world.size() == 1 ? "four ranks as threads" : "the ranks of this job");
    }
  }
  check(same,
        "some mesh does not train what one rank trains: a difference above {:.0e} is no rounding",
        kMost);
  return kExitDone;
}

int run(Session& session, const Options& options) {
  if (options.equivalence) return run_equivalence(session, options);
  check_usage(options.write_mib >= 1, "--write-mib is {}: it must be at least 1",
              options.write_mib);
  session.set_ranks(options.ranks);
  Comm& world = session.world(true);
  const int threads = session.set_threads(options.threads);
  Advice advice;
  const Json mine = examine_rank(session, threads, advice);

  Json communicators;
  communicators.push_back(check_communicator(world, "world"));
  const auto dp = world.split(0, world.rank());
  communicators.push_back(check_communicator(*dp, "data-parallel"));
  const bool several_hosts = session.place().local_size < world.size();
  if (several_hosts) {
    // Ranks of one host share the colour: the rank of the first of them.
    std::vector<std::string> hosts = gather_texts(world, session.place().host);
    const auto first = std::find(hosts.begin(), hosts.end(), session.place().host);
    const auto host = world.split(static_cast<int>(first - hosts.begin()), world.rank());
    communicators.push_back(check_communicator(*host, "this host"));
  }
  Json disk;
  if (world.rank() == 0) disk = check_disk(options.write_mib, advice);

  Json result;
  result["libraries"] = library_versions();
  for (const std::string& text : gather_texts(world, mine.dump()))
    result["ranks"].push_back(Json::parse(text));
  result["communicators"] = communicators;
  result["disk"] = disk;
  result["advice"] = Json::array();
  int number = 0;
  for (const std::string& text : gather_texts(world, Json(advice).dump())) {
    for (const Json& sentence : Json::parse(text))
      result["advice"].push_back(
          world.size() == 1 ? sentence.get<std::string>()
                            : fmt::format("rank {}: {}", number, sentence.get<std::string>()));
    ++number;
  }
  if (world.rank() != 0) return kExitDone;
  if (options.json)
    fmt::print("{}\n", result.dump());
  else
    print_plain(result);
  return kExitDone;
}

}  // namespace

Run add_doctor(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--threads", options->threads, "Threads a rank (0: its share of the cores)");
  app.add_option("--write-mib", options->write_mib, "Size of the file that tries the disk, MiB");
  app.add_flag(
      "--equivalence", options->equivalence,
      "Instead: tiny trainings in fp64 on every mesh of the ranks (alone: of four threads), "
      "which must give what one rank gives");
  add_rank_options(app, options->ranks);
  app.add_flag("--json", options->json, "Print everything as JSON");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
