// Checkpoints of many ranks: any mesh reads what any mesh wrote; saves beside training; ranks that
// fail or are killed; parts that lie about themselves.
#include <gtest/gtest.h>
#include <omp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/model/tensor_parallel.h"
#include "core/train/checkpoint_files.h"
#include "core/train/checkpoint_reader.h"
#include "core/train/checkpoint_writer.h"
#include "data/atomic_file.h"
#include "data/safetensors.h"
#include "dist/self_comm.h"
#include "dist/thread_comm.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

TrainState state_at(std::int64_t step) {
  TrainState state;
  state.model_fingerprint = "m";
  state.precision = "fp32";
  state.step = step;
  return state;
}

/// A rank's part of a model, and of its optimizer's state what it keeps.
struct Rank {
  Mesh mesh;
  ParamStore params{TrainedPart::all};
  Arena arena{1 << 20};
  Tensor moments[2];
  std::vector<OwnedRange> owned;

  Rank(Comm& world, int tp, bool sharded) : mesh(make_mesh(world, world.size() / tp, tp)) {
    const TensorParallel parallel(*mesh.tp);
    const auto share = [&](std::int64_t n) { return parallel.share_of(n); };
    params.add({.name = "embed", .shape = {share(37), 50}, .part = parallel.part(0, 37)});
    params.add({.name = "norm", .shape = {3}});
    params.add({.name = "down", .shape = {6, share(17)}, .part = parallel.part(1, 17)});
    params.add({.name = "phi", .shape = {share(4), 2, 3}, .part = parallel.part(0, 4)});
    params.add({.name = "position", .shape = {40, 30}});
    params.allocate(DType::f32);
    const std::int64_t span = params.span_size();
    for (Tensor& moment : moments) moment = arena.allocate(Shape{span}, DType::f32);
    const std::int64_t r = mesh.replicas->rank(), n = mesh.replicas->size();
    if (!sharded)
      keep(0, span);
    else {
      keep(0, 10);  // a remainder that all keep
      keep(10 + (span - 10) * r / n, 10 + (span - 10) * (r + 1) / n);
    }
  }
  void keep(std::int64_t begin, std::int64_t end) {
    owned.push_back({begin, end, params.all_values().row_range(begin, end),
                     moments[0].row_range(begin, end), moments[1].row_range(begin, end)});
  }
  /// What element `place` of the whole parameter `p` is in an array.
  static float value(int array, int p, std::int64_t place, int seed) {
    return static_cast<float>(seed * 100000 + array * 20000 + p * 4000 + place);
  }
  template <class F>
  void each(F&& f) {
    for (int array = 0; array < 3; ++array)
      for (int p = 0; p < params.count(); ++p) {
        const ParamSpec& spec = params.spec(ParamId{p});
        float* const data = (array == 0 ? params.all_values() : moments[array - 1]).as<float>() +
                            params.offset(ParamId{p});
        for (std::int64_t i = 0; i < spec.shape.size(); ++i)
          f(array, params.offset(ParamId{p}) + i, data[i], p, spec.whole_index(i));
      }
  }
  void fill(int seed) {
    each([&](int array, std::int64_t, float& x, int p, std::int64_t place) {
      x = value(array, p, place, seed);
    });
  }
  /// Elements that are not what fill(seed) makes, of all values and the moments that are kept.
  std::int64_t differences(int seed) {
    std::int64_t count = 0;
    each([&](int array, std::int64_t at, float& x, int p, std::int64_t place) {
      bool kept = array == 0;
      for (const OwnedRange& range : owned) kept = kept || (range.begin <= at && at < range.end);
      if (kept && x != value(array, p, place, seed)) ++count;
    });
    return count;
  }
  void save(const std::string& run, std::int64_t step, bool asynchronous = false,
            std::int64_t keep_count = 2) {
    CheckpointWriter writer(run, mesh, params, owned, keep_count, asynchronous);
    writer.save(state_at(step));
    writer.finish();
  }
  std::optional<TrainState> load(const std::string& run) {
    fill(9);
    return load_checkpoint(mesh.world, run, state_at(0), params, owned);
  }
};

struct Ranks {
  int dp, tp;
  bool sharded;
};

void on_ranks(const Ranks& ranks, const std::function<void(Rank&)>& work) {
  run_ranks(ranks.dp * ranks.tp, [&](Comm& world) {
    omp_set_num_threads(1);
    Rank rank(world, ranks.tp, ranks.sharded);
    work(rank);
  });
}

void save(const Ranks& ranks, const std::string& run, int step) {
  on_ranks(ranks, [&](Rank& rank) {
    rank.fill(step);
    rank.save(run, step);
  });
}

/// The step that one rank alone loads, whose values must be those of that step.
std::int64_t loaded_step(const std::string& run) {
  SelfComm world;
  Rank rank(world, 1, false);
  const auto state = rank.load(run);
  if (!state) return 0;
  EXPECT_EQ(rank.differences(static_cast<int>(state->step)), 0);
  return state->step;
}

TEST(CheckpointMesh, AnyMeshReadsWhatAnyMeshWrote) {
  const Ranks all[] = {{1, 1, false}, {2, 2, false}, {4, 1, false}, {1, 4, false},
                       {1, 3, false}, {3, 1, true},  {2, 2, true},  {4, 1, true}};
  for (const Ranks& writers : all) {
    const TemporaryFolder run;
    save(writers, run.path(), 3);
    const std::string folder = checkpoint_folder(run.path(), 3);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), writers.dp * writers.tp + 1);
    for (const Ranks& readers : all) {
      SCOPED_TRACE(fmt::format("{}x{}{} to {}x{}{}", writers.dp, writers.tp,
                               writers.sharded ? " sharded" : "", readers.dp, readers.tp,
                               readers.sharded ? " sharded" : ""));
      on_ranks(readers, [&](Rank& rank) {
        const auto state = rank.load(run.path());
        EXPECT_TRUE(state && state->step == 3);
        EXPECT_EQ(rank.differences(3), 0);
      });
    }
  }
}

TEST(CheckpointMesh, RanksShareTheWritingOut) {
  for (const Ranks& ranks : {Ranks{4, 1, false}, {4, 1, true}, {2, 2, false}}) {
    on_ranks(ranks, [&](Rank& rank) {
      CheckpointWriter writer("unused", rank.mesh, rank.params, rank.owned, 1, false);
      Comm& world = rank.mesh.world;
      const std::int64_t total = world.all_reduce_value(writer.bytes(), ReduceOp::sum);
      EXPECT_EQ(total, 3 * 4 * (37 * 50 + 3 + 6 * 17 + 4 * 2 * 3 + 40 * 30));
      // Within the alignment between parameters; with tp the first part also has what is not split.
      EXPECT_LT(world.all_reduce_value(writer.bytes(), ReduceOp::max),
                total / (ranks.tp > 1 ? 2 : 4) + 3 * 4 * 100);
    });
  }
}

TEST(CheckpointMesh, WhatNobodyKeepsCannotBeSaved) {
  EXPECT_ERROR(on_ranks({2, 1, false},
                        [&](Rank& rank) {
                          rank.owned.clear();
                          rank.keep(0, 100);
                          rank.keep(101, rank.params.span_size());
                          rank.save("unused", 1);
                        }),
               "no rank keeps the optimizer's state of element 100 of embed");
}

/// Holds the first thread that comes to write a part until it is opened.
class Gate {
 public:
  Gate() {
    set_write_point_hook([this](const char* what) {
      std::unique_lock lock(mutex_);
      if (std::string(what) == "part" && !std::exchange(holds_, true))
        condition_.wait(lock, [&] { return open_; });
    });
  }
  ~Gate() { set_write_point_hook({}); }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    condition_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool open_ = false, holds_ = false;
};

TEST(CheckpointMesh, TrainingGoesOnWhileItIsWritten) {
  const TemporaryFolder run;
  Gate gate;
  on_ranks({2, 2, false}, [&](Rank& rank) {
    CheckpointWriter writer(run.path(), rank.mesh, rank.params, rank.owned, 2, true);
    rank.fill(1);
    writer.save(state_at(1));
    writer.await_snapshot();
    rank.fill(5);                   // the next update
    for (int i = 0; i < 20; ++i) {  // the other ranks are done by then
      writer.poll();
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_TRUE(writer.pending());
    EXPECT_FALSE(fs::exists(run / "latest"));
    rank.mesh.world.barrier();
    gate.open();
    while (writer.pending()) writer.poll();
    EXPECT_EQ(get(run / "latest"), "step_00000001\n");
    EXPECT_GT(writer.stall_seconds(), 0);
  });
  EXPECT_EQ(loaded_step(run.path()), 1);
}

TEST(CheckpointMesh, SavesInQuickSuccession) {
  const TemporaryFolder run;
  on_ranks({2, 1, true}, [&](Rank& rank) {
    CheckpointWriter writer(run.path(), rank.mesh, rank.params, rank.owned, 2, true);
    for (int step : {1, 2, 3}) {
      rank.fill(step);
      writer.save(state_at(step));
      writer.await_snapshot();
    }
    writer.finish();
  });
  EXPECT_EQ(list_checkpoints(run.path()), (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(loaded_step(run.path()), 3);
  fs::remove_all(checkpoint_folder(run.path(), 3));
  EXPECT_EQ(loaded_step(run.path()), 2);
}

TEST(CheckpointMesh, OneRankFinishesWhatIsPendingAsItGoes) {
  const TemporaryFolder run;
  SelfComm world;
  {
    Rank rank(world, 1, false);
    rank.fill(1);
    CheckpointWriter writer(run.path(), rank.mesh, rank.params, rank.owned, 2, true);
    writer.save(state_at(1));
  }
  EXPECT_EQ(loaded_step(run.path()), 1);
}

TEST(CheckpointMesh, ARankThatCannotWriteIsEveryRanksFailure) {
  for (const bool asynchronous : {false, true})
    for (const char* where : {"folder", "part", "piece", "header", "sync", "state", "rename"}) {
      SCOPED_TRACE(where);
      const TemporaryFolder run;
      save({1, 1, false}, run.path(), 1);
      set_write_point_hook(
          [where, failed = std::make_shared<std::atomic<bool>>(false)](const char* what) {
            if (std::string(what) == where && !failed->exchange(true)) fail("the disk is full");
          });
      std::atomic<int> failures = 0;
      on_ranks({2, 2, false}, [&](Rank& rank) {
        rank.fill(2);
        EXPECT_ERROR(rank.save(run.path(), 2, asynchronous),
                     "cannot save the checkpoint of step 2: the disk is full; earlier checkpoints "
                     "are kept");
        ++failures;
      });
      set_write_point_hook({});
      EXPECT_EQ(failures, 4);
      for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
        EXPECT_EQ(entry.path().filename(), "step_00000001");
      EXPECT_EQ(loaded_step(run.path()), 1);
    }
}

TEST(CheckpointMesh, RanksKilledAtEveryWritePoint) {
  for (const bool asynchronous : {false, true}) {
    int point = 0;
    for (bool ended = false; !ended; ++point) {
      const TemporaryFolder run;
      save({1, 1, false}, run.path(), 1);
      std::fflush(nullptr);
      const pid_t child = fork();
      if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(98);
        std::atomic<int> count = 0;
        set_write_point_hook([&](const char*) {
          if (count++ == point) raise(SIGKILL);
        });
        try {
          on_ranks({2, 2, true}, [&](Rank& rank) {
            rank.fill(2);
            rank.save(run.path(), 2, asynchronous, 1);
          });
        } catch (...) {
          _exit(99);
        }
        _exit(0);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ended = WIFEXITED(status);
      if (ended) {
        EXPECT_EQ(WEXITSTATUS(status), 0);
      }
      const std::int64_t step = loaded_step(run.path());
      EXPECT_TRUE(step == 2 || (step == 1 && !ended)) << "write point " << point;
      save({3, 1, false}, run.path(), 3);  // the run goes on, on another mesh
      EXPECT_EQ(loaded_step(run.path()), 3) << "write point " << point;
      for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
        EXPECT_FALSE(entry.path().filename().string().starts_with(".partial"));
    }
    EXPECT_GE(point, 40);
  }
}

/// Changes the descriptions of the pieces in a part, with all checksums as they should be then.
void edit_part(const std::string& folder, std::int64_t part, std::int64_t parts,
               const std::function<void(std::map<std::string, std::string>&)>& edit) {
  const std::string path = folder + "/" + part_name(part, parts);
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsEntry> entries;
  std::string data;
  {
    const SafetensorsFile file(path);
    metadata = file.metadata();
    data = get(path).substr(file.header().size());
    for (const auto& [name, info] : file.tensors())
      entries.push_back({name, DType::f32, info.shape, nullptr});
    std::sort(entries.begin(), entries.end(), [&](const auto& a, const auto& b) {
      return file.info(a.name).begin < file.info(b.name).begin;
    });
  }
  edit(metadata);
  const std::string header = safetensors_header(entries, metadata);
  put(path, header + data);
  auto state = json::parse(get(folder + "/state.json"));
  state.erase("state_xxh3");
  state["parts"][static_cast<std::size_t>(part)] = {
      {"bytes", header.size() + data.size()},
      {"header_xxh3", xxh3_text(std::as_bytes(std::span(header)))}};
  state["state_xxh3"] = hash_of_text(state.dump());
  put(folder + "/state.json", state.dump());
}

/// Loads on several meshes: each takes the older one. `says`: what one checkpoint alone is refused
/// with.
void expect_passed_over(const std::function<void(const std::string&)>& damage, const char* says) {
  SCOPED_TRACE(says);
  const TemporaryFolder run, single;
  save({2, 2, false}, run.path(), 1);
  save({2, 2, false}, run.path(), 2);
  damage(checkpoint_folder(run.path(), 2));
  for (const Ranks& readers : {Ranks{1, 1, false}, {3, 1, false}, {2, 2, true}})
    on_ranks(readers, [&](Rank& rank) {
      const auto state = rank.load(run.path());
      EXPECT_TRUE(state && state->step == 1);
      EXPECT_EQ(rank.differences(1), 0);
    });
  fs::remove_all(checkpoint_folder(run.path(), 1));
  std::atomic<int> failures = 0;
  on_ranks({3, 1, false}, [&](Rank& rank) {
    EXPECT_ERROR(rank.load(run.path()), says);
    EXPECT_ERROR(rank.load(run.path()), "none of the 1 checkpoints");
    ++failures;
  });
  EXPECT_EQ(failures, 3);
}

TEST(CheckpointMesh, DamagedPartsArePassedOver) {
  const std::string part = "/" + part_name(2, 4);
  expect_passed_over([&](const std::string& folder) { fs::remove(folder + part); }, "cannot open");
  expect_passed_over(
      [&](const std::string& folder) {
        fs::resize_file(folder + part, fs::file_size(folder + part) / 2);
      },
      "truncated");
  expect_passed_over(
      [&](const std::string& folder) {
        put_byte(folder + part, fs::file_size(folder + part) - 2, 3);
      },
      "does not have the checksum that was written for it");
  expect_passed_over(
      [&](const std::string& folder) {
        fs::copy_file(fs::path(folder).parent_path() / "step_00000001" / part.substr(1),
                      folder + part, fs::copy_options::overwrite_existing);
      },
      "is not the part that state.json names");
  expect_passed_over(
      [&](const std::string& folder) { put(folder + part, get(folder + part) + "more"); },
      "is not the part that state.json names");
}

/// Replaces a text in the description of the first piece that has it.
auto replacing(const std::string& old_text, const std::string& new_text) {
  return [=](std::map<std::string, std::string>& metadata) {
    for (auto& [name, text] : metadata) {
      const std::size_t at = text.find(old_text);
      if (at == std::string::npos) continue;
      text.replace(at, old_text.size(), new_text);
      return;
    }
    ADD_FAILURE() << "no piece has " << old_text;
  };
}

TEST(CheckpointMesh, PartsThatLieArePassedOver) {
  const auto lie = [](const std::string& old_text, const std::string& new_text, const char* says) {
    expect_passed_over(
        [&](const std::string& folder) { edit_part(folder, 1, 4, replacing(old_text, new_text)); },
        says);
  };
  // Part 1 is of tensor-parallel rank 1, replica 0: rows 18 to 37 of embed.
  lie(R"("part":{"begin":18,"dim":0,"length":19})", R"("part":{"begin":0,"dim":0,"length":19})",
      "overlap, or one is missing");
  lie(R"("begin":18)", R"("begin":18446744073709551615)", "which is no size");
  lie(R"("begin":18)", R"("begin":9223372036854775807)", "which does not exist");
  lie(R"("begin":18)", R"("begin":-1)", "which is no size");
  lie(R"("length":19)", R"("length":9223372036854775807)", "which does not exist");
  lie(R"("length":19)", R"("length":1.5)", "which is no size");
  lie(R"("dim":0)", R"("dim":7)", "is cut along dimension 7");
  lie(R"("shape":[37,50])", R"("shape":[4294967296,4294967296])", "is too large");
  lie(R"("shape":[37,50])", R"("shape":[37,51])", "another shape than the model's");
  lie(R"("shape":[37,50])", R"("shape":[])", "has 0 dimensions");
  lie(R"("shape":[37,50])", R"("shape":"x")", "no description of a piece");
  lie(R"("elements":[0,)", R"("elements":[9223372036854775807,)", "is the elements");
  lie(R"("elements":[0,)", R"("elements":[1,)", "its description says");
  lie(R"("parameter":"down")", R"("parameter":"norm")", "another shape than the model's");
  lie(R"("parameter":"embed")", R"("parameter":"else")", "adam_m of embed");
  lie(R"("array":"adam_v")", R"("array":"adam_m")", "overlap, or one is missing");
  lie(R"("array":"adam_m")", R"("array":"values")",
      "values of down: pieces overlap, or one is missing, at element 0");
  lie(R"("array":"adam_m")", R"("array":"adam_x")", "of an unknown array");
  lie(R"({"array")", R"(["array")", "no description of a piece");
}

TEST(CheckpointMesh, StatesThatLieArePassedOver) {
  const auto lie = [](const std::function<void(json&)>& edit, const char* says) {
    expect_passed_over(
        [&](const std::string& folder) {
          auto state = json::parse(get(folder + "/state.json"));
          state.erase("state_xxh3");
          edit(state);
          state["state_xxh3"] = hash_of_text(state.dump());
          put(folder + "/state.json", state.dump());
        },
        says);
  };
  lie([](json& s) { s.erase("parts"); }, "names no parts");
  lie([](json& s) { s["parts"] = 5; }, "names no parts");
  lie([](json& s) { s["parts"].erase(3); }, "cannot open");
  lie([](json& s) { s["parts"][1]["bytes"] = -1; }, "is not the part that state.json names");
  lie([](json& s) { s["parts"][1] = "x"; }, "is not the part that state.json names");
  lie([](json& s) { s["version"] = 1e300; }, "has the format version");
  lie([](json& s) { s["progress"]["step"] = "x"; }, "type must be number");
}

}  // namespace
}  // namespace t2r
