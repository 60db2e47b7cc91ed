// How fast a model is loaded beside plain read(2) of its weights' bytes into fresh memory, in turns
// on a warm cache, and how much memory that takes beside the parameters: each in a process of its
// own, from whose peak the memory before loading is subtracted.
//   build/bench/loading_speed --model FOLDER [--precision fp32|bf16]
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include "core/train/model_folder.h"

namespace {

using namespace t2r;
using Clock = std::chrono::steady_clock;

struct Sample {
  double seconds = 0, processor_seconds = 0, grown_bytes = 0, parameter_bytes = 0;
};

/// A line of /proc/self/status, in bytes: VmRSS, VmHWM.
double status_bytes(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string word; in >> word;)
    if (word == key + ":") {
      double kib = 0;
      in >> kib;
      return kib * 1024;
    }
  fail("/proc/self/status has no {}", key);
}

double processor_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return of(used.ru_utime) + of(used.ru_stime);
}

/// What `work` (which returns bytes of parameters) takes in a process of its own.
Sample measure(const std::function<double()>& work) {
  int ends[2];
  check(pipe(ends) == 0, "cannot make a pipe");
  const pid_t child = fork();
  check(child >= 0, "cannot start a process");
  if (child == 0) {
    Sample sample;
    const double before = status_bytes("VmRSS");
    const double processor = processor_seconds();
    const auto start = Clock::now();
    sample.parameter_bytes = work();
    sample.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    sample.processor_seconds = processor_seconds() - processor;
    sample.grown_bytes = status_bytes("VmHWM") - before;
    _exit(write(ends[1], &sample, sizeof(sample)) == sizeof(sample) ? 0 : 1);
  }
  close(ends[1]);
  Sample sample;
  const bool told = read(ends[0], &sample, sizeof(sample)) == sizeof(sample);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  check(told && status == 0, "a measurement failed");
  return sample;
}

/// read(2) of all weight files, into new memory of their size or again and again into 1 MiB.
double read_plainly(const std::vector<std::string>& paths, bool into_fresh) {
  for (const std::string& path : paths) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    check(file >= 0, "cannot open {}", path);
    const std::size_t size = into_fresh ? std::filesystem::file_size(path) : std::size_t{1} << 20;
    void* const memory =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "no memory for {}", path);
    std::size_t place = 0;
    for (ssize_t got = 1; got > 0; place += into_fresh ? static_cast<std::size_t>(got) : 0)
      got = read(file, static_cast<std::byte*>(memory) + place, size - place);
    munmap(memory, size);
    close(file);
  }
  return 0;
}

double median(const std::vector<Sample>& samples, double Sample::*of) {
  std::vector<double> values;
  for (const Sample& sample : samples) values.push_back(sample.*of);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void run(const std::string& folder, DType dtype, int repeats) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  std::vector<Sample> loads, reads, streams;
  for (int i = 0; i <= repeats; ++i) {  // the first round warms the cache
    const Sample load = measure([&] {
      return static_cast<double>(
          load_model(folder, dtype, TrainedPart::nothing)->params().all_values().bytes());
    });
    const Sample read = measure([&] { return read_plainly(paths, true); });
    const Sample stream = measure([&] { return read_plainly(paths, false); });
    if (i == 0) continue;
    loads.push_back(load);
    reads.push_back(read);
    streams.push_back(stream);
  }
  const double load = median(loads, &Sample::seconds), read = median(reads, &Sample::seconds);
  const double grown = median(loads, &Sample::grown_bytes);
  const double parameters = median(loads, &Sample::parameter_bytes);
  fmt::print("loading {:.3f} s, read(2) {:.3f} s: ratio {:.2f}", load, read, load / read);
  fmt::print(" (read(2) into one 1 MiB buffer {:.3f} s)\n", median(streams, &Sample::seconds));
  fmt::print("processor time: {:.3f} s against {:.3f} s: ratio {:.2f}\n",
             median(loads, &Sample::processor_seconds), median(reads, &Sample::processor_seconds),
             median(loads, &Sample::processor_seconds) / median(reads, &Sample::processor_seconds));
  fmt::print("memory {:.1f} MB, parameters {:.1f} MB: ratio {:.3f}\n", grown / 1e6,
             parameters / 1e6, grown / parameters);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times the loading of a model beside plain reading, and measures its memory");
  std::string folder, precision = "fp32";
  int repeats = 9;
  app.add_option("--model", folder)->required();
  app.add_option("--precision", precision, "fp32, bf16 or fp64");
  app.add_option("--repeats", repeats);
  CLI11_PARSE(app, argc, argv);
  try {
    run(folder, parse_dtype(precision), repeats);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
