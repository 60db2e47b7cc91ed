// How fast checkpoints are written beside `dd conv=fsync` of as many bytes on the same disk, in
// turns, and how long training (here: matrix products on all threads) stands still for one.
//   build/bench/checkpoint_speed --folder RUN; mpirun -np 2 build/bench/checkpoint_speed ...
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <vector>

#include "core/base/random.h"
#include "core/train/checkpoint_writer.h"
#include "core/train/machine.h"
#include "dist/launcher.h"

namespace {

using namespace t2r;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string summary(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return fmt::format("{:.3f} ({:.3f} to {:.3f})", values[values.size() / 2], values.front(),
                     values.back());
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Noise that no disk can compress.
void fill(const Tensor& span) {
  auto* const x = static_cast<std::uint32_t*>(span.data);
#pragma omp parallel for
  for (std::int64_t i = 0; i < span.size() / 4; ++i) {
    const auto bits = random_bits(1, 2, static_cast<std::uint64_t>(i));
    for (std::int64_t k = 0; k < 4; ++k)
      x[4 * i + k] = static_cast<std::uint32_t>(bits[0] >> (8 * k));
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times the writing of checkpoints beside dd");
  std::string folder = "checkpoint-speed", writing = "async";
  std::int64_t millions = 90;
  int repeats = 5;
  double update_seconds = 1;
  app.add_option("--folder", folder, "Where to write; removed in the end");
  app.add_option("--millions", millions, "Millions of parameters, 12 bytes each");
  app.add_option("--repeats", repeats);
  app.add_option("--update-seconds", update_seconds, "of an update beside which it is written");
  app.add_option("--writing", writing, "async or sync");
  CLI11_PARSE(app, argc, argv);

  const auto world = make_world_comm(false);
  const Mesh mesh = make_mesh(*world, world->size(), 1);
  ParamStore params{TrainedPart::all};
  for (std::int64_t i = 0; i < millions; ++i)
    params.add({.name = "layer." + std::to_string(i), .shape = {1000, 1000}});
  params.allocate(DType::f32);
  const Shape span{params.span_size()};
  Arena arena(2 * span.size() * 4 + 128);
  const OwnedRange owned{0, span[0], params.all_values(), arena.allocate(span, DType::f32),
                         arena.allocate(span, DType::f32)};
  for (const Tensor& memory : {owned.master, owned.first_moment, owned.second_moment}) fill(memory);
  CheckpointWriter writer(folder, mesh, params, std::span(&owned, 1), 1, writing == "async");

  const std::int64_t mib = 12 * millions * 1'000'000 >> 20;
  const std::string file = folder + "/dd";
  // Not from /dev/zero, which some disks and hosts do not store: from a file in memory.
  const std::string source = fmt::format("/dev/shm/t2r-checkpoint-speed-{}", getpid());
  const auto shell = [](const std::string& command) {
    check(std::system(command.c_str()) == 0, "this failed: {}", command);
  };
  if (world->rank() == 0) {
    std::filesystem::create_directories(folder);
    shell(fmt::format("dd if=/dev/urandom of={} bs=1M count={} status=none", source, mib));
  }
  std::vector<double> dd, ours, stalls, shares, stall_shares;
  for (int i = 0; i <= repeats; ++i) {  // the first is not counted
    if (world->rank() == 0) {
      std::filesystem::remove(file);
      shell("sync");
    }
    world->barrier();
    auto start = Clock::now();
    if (world->rank() == 0)
      shell(fmt::format("dd if={} of={} bs=16M conv=fsync status=none", source, file));
    const double dd_seconds = seconds_since(start);
    if (world->rank() == 0) {
      std::filesystem::remove(file);
      shell("sync");
    }
    world->barrier();
    TrainState state;
    state.step = 2 * i + 1;
    start = Clock::now();
    writer.save(state);
    while (writer.pending()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      writer.poll();
    }
    const double seconds = seconds_since(start);
    // Beside updates: the same calls as the trainer's.
    const double stalled = writer.stall_seconds();
    ++state.step;
    writer.save(state);
    while (writer.pending()) {
      measure_gemm_rate(DType::f32, update_seconds);
      world->barrier();  // gradients are summed, whether something is saved or not
      writer.await_snapshot();
      writer.poll();
    }
    const double stall = writer.stall_seconds() - stalled;
    if (world->rank() == 0)
      fmt::print("dd {:.3f} s, checkpoint {:.3f} s; training stood still for another {:.3f} s\n",
                 dd_seconds, seconds, stall);
    if (i == 0) continue;
    dd.push_back(dd_seconds);
    ours.push_back(seconds);
    stalls.push_back(stall);
    shares.push_back(dd_seconds / seconds);
    stall_shares.push_back(stall / seconds);
  }
  if (world->rank() == 0) {
    fmt::print(
        "{} ranks, {} MiB, {}: dd {} s, checkpoint {} s, training stood still {} s; medians: "
        "{:.0f} "
        "MiB/s, {:.0f} % of dd's speed, stall {:.1f} % of the writing time\n",
        world->size(), mib, writing, summary(dd), summary(ours), summary(stalls),
        static_cast<double>(mib) / median(ours), 100 * median(shares), 100 * median(stall_shares));
    std::filesystem::remove_all(folder);
    std::filesystem::remove(source);
  }
  return 0;
}
