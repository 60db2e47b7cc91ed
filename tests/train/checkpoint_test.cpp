// Checkpoints: exact contents, damage, foreign checkpoints, and saves that are killed or run out of
// space at any point.
#include "core/train/checkpoint.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/base/random.h"
#include "core/train/checkpoint_files.h"
#include "core/train/checkpoint_reader.h"
#include "core/train/checkpoint_writer.h"
#include "data/safetensors.h"
#include "dist/self_comm.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;

TrainState state_at(std::int64_t step) {
  TrainState state;
  state.model_fingerprint = "m";
  state.dataset_fingerprint = "d";
  state.precision = "fp32";
  state.seed = 7;
  state.sequence_length = 12;
  state.global_batch = 4;
  state.packing = "documents";
  state.step = step;
  state.tokens = 1000 * step;
  state.flops = 1.0 / 3.0;
  state.wall_seconds = 2.5;
  state.energy_joules = 17.25;
  return state;
}

/// A few parameters and their optimizer, filled from a number.
struct Holder {
  ParamStore params{TrainedPart::all};
  std::unique_ptr<Optimizer> optimizer;

  explicit Holder(std::uint64_t fill, std::int64_t width = 7) {
    params.add({.name = "embed.weight", .shape = {37, width}});
    params.add({.name = "norm.weight", .shape = {3}});
    params.add({.name = "out.weight", .shape = {5, 2, 3}});
    params.allocate(DType::f32);
    optimizer = std::make_unique<Optimizer>(params, AdamWOptions{});
    int span = 0;
    for (const Tensor& x : spans()) {
      for (int p = 0; p < params.count(); ++p)  // gaps stay zero
        for (std::int64_t i = 0; i < params.spec(ParamId{p}).shape.size(); ++i)
          x.as<float>()[params.offset(ParamId{p}) + i] = static_cast<float>(random_normal(
              fill, static_cast<std::uint64_t>(span * 10 + p), static_cast<std::uint64_t>(i)));
      ++span;
    }
  }
  std::vector<Tensor> spans() const {
    return {optimizer->master(), optimizer->first_moment(), optimizer->second_moment()};
  }
  bool equals(const Holder& other) const {
    for (int i = 0; i < 3; ++i)
      if (std::memcmp(spans()[static_cast<std::size_t>(i)].data,
                      other.spans()[static_cast<std::size_t>(i)].data,
                      static_cast<std::size_t>(spans()[0].bytes())) != 0)
        return false;
    return true;
  }
  void save(const std::string& run, std::int64_t step, std::int64_t keep = 2,
            bool asynchronous = false) const {
    SelfComm world;
    const Mesh mesh = make_mesh(world, 1, 1);
    CheckpointWriter writer(run, mesh, params, optimizer->owned(), keep, asynchronous);
    writer.save(state_at(step));
    writer.finish();
  }
  std::optional<TrainState> load(const std::string& run, const TrainState& expected = state_at(0)) {
    SelfComm world;
    return load_checkpoint(world, run, expected, params, optimizer->owned());
  }
};

TEST(Checkpoint, RoundTripIsExact) {
  const TemporaryFolder run;
  const Holder saved(1);
  saved.save(run.path(), 420);
  EXPECT_EQ(get(run / "latest"), "step_00000420\n");
  EXPECT_TRUE(fs::exists(run / "checkpoints/step_00000420/state.json"));
  Holder loaded(2);
  const auto state = loaded.load(run.path());
  ASSERT_TRUE(state.has_value());
  EXPECT_TRUE(loaded.equals(saved));
  EXPECT_EQ(state->step, 420);
  EXPECT_EQ(state->tokens, 420000);
  EXPECT_EQ(state->flops, 1.0 / 3.0);
  EXPECT_EQ(state->energy_joules, 17.25);
}

TEST(Checkpoint, NothingToLoad) {
  const TemporaryFolder run;
  Holder holder(1);
  EXPECT_FALSE(holder.load(run.path()).has_value());
  EXPECT_FALSE(holder.load(run / "missing").has_value());
  fs::create_directories(run / "checkpoints/step_abc");
  fs::create_directories(run / "checkpoints/.partial-00000003");
  EXPECT_FALSE(holder.load(run.path()).has_value());
}

TEST(Checkpoint, KeepsTheNewest) {
  const TemporaryFolder run;
  for (std::int64_t step : {1, 2, 10, 100000000}) Holder(1).save(run.path(), step, 2);
  EXPECT_EQ(list_checkpoints(run.path()), (std::vector<std::int64_t>{10, 100000000}));
  Holder(1).save(run.path(), 200000000, 0);  // at least one
  EXPECT_EQ(list_checkpoints(run.path()), (std::vector<std::int64_t>{200000000}));
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    EXPECT_EQ(entry.path().filename(), "step_200000000");
}

TEST(Checkpoint, SetAsideTwice) {
  const TemporaryFolder run;
  set_checkpoints_aside(run.path());  // nothing there
  for (int i = 1; i <= 2; ++i) {
    Holder(1).save(run.path(), i);
    set_checkpoints_aside(run.path());
    EXPECT_TRUE(list_checkpoints(run.path()).empty());
    EXPECT_FALSE(fs::exists(run / "latest"));
  }
  EXPECT_TRUE(fs::exists(run / "checkpoints.old-1/step_00000001"));
  EXPECT_TRUE(fs::exists(run / "checkpoints.old-2/step_00000002"));
}

TEST(Checkpoint, ForeignOnesAreRefused) {
  const TemporaryFolder run;
  Holder holder(1);
  holder.save(run.path(), 5);
  const auto refuses = [&](auto change, const char* part) {
    TrainState expected = state_at(0);
    change(expected);
    EXPECT_ERROR(holder.load(run.path(), expected), part);
  };
  refuses([](TrainState& s) { s.model_fingerprint = "x"; }, "of another model");
  refuses([](TrainState& s) { s.dataset_fingerprint = "x"; }, "on another dataset");
  refuses([](TrainState& s) { s.precision = "bf16"; }, "another precision: it has \"fp32\"");
  refuses([](TrainState& s) { s.seed = 8; }, "another seed: it has 7, this run has 8");
  refuses([](TrainState& s) { s.sequence_length = 13; }, "another sequence length");
  refuses([](TrainState& s) { s.global_batch = 5; }, "sequences an update");
  refuses([](TrainState& s) { s.packing = "contiguous"; }, "another packing");
  refuses([](TrainState& s) { s.start_fingerprint = "x"; }, "from other weights");
}

TEST(Checkpoint, DamagedOnesArePassedOver) {
  const Holder old_one(1), new_one(2);
  const auto files = {"state.json", "part-00000-of-00001.safetensors"};
  int noticed = 0, harmless = 0;
  const auto try_damage = [&](const std::string& name, auto damage) {
    const TemporaryFolder run;
    old_one.save(run.path(), 1);
    new_one.save(run.path(), 2);
    const std::string path = checkpoint_folder(run.path(), 2) + "/" + name;
    put(path, damage(get(path)));
    Holder loaded(3);
    const auto state = loaded.load(run.path());
    ASSERT_TRUE(state.has_value());
    if (state->step == 1) {
      EXPECT_TRUE(loaded.equals(old_one)) << name;
      ++noticed;
    } else {  // a byte that carries nothing, such as white space
      EXPECT_TRUE(loaded.equals(new_one)) << name;
      EXPECT_EQ(state->tokens, 2000);
      ++harmless;
    }
    // A new save of the same step heals it.
    new_one.save(run.path(), 2);
    EXPECT_EQ(loaded.load(run.path())->step, 2);
    EXPECT_TRUE(loaded.equals(new_one));
  };
  for (const std::string name : files) {
    for (double share : {0.0, 0.3, 0.9})
      try_damage(name, [&](std::string bytes) {
        return bytes.substr(0, static_cast<std::size_t>(share * static_cast<double>(bytes.size())));
      });
    EXPECT_GE(noticed, 3);
    for (std::uint64_t i = 0; i < 24; ++i)
      try_damage(name, [&](std::string bytes) {
        const std::uint64_t at = random_bits(5, i, 0)[0] % (8 * bytes.size());
        bytes[at / 8] = static_cast<char>(bytes[at / 8] ^ (1 << (at % 8)));
        return bytes;
      });
    EXPECT_EQ(harmless <= noticed / 4, true) << harmless << " of " << noticed;
  }
}

TEST(Checkpoint, AllDamaged) {
  const TemporaryFolder run;
  Holder holder(1);
  holder.save(run.path(), 1);
  put(run / "checkpoints/step_00000001/part-00000-of-00001.safetensors", "");
  EXPECT_ERROR(holder.load(run.path()), "none of the 1 checkpoints");
}

TEST(Checkpoint, TheFirstVersionIsRead) {
  // Three files of whole arrays, written by one rank.
  const TemporaryFolder run;
  const Holder saved(1);
  saved.save(run.path(), 7);
  const std::string folder = checkpoint_folder(run.path(), 7);
  auto document = nlohmann::json::parse(get(folder + "/state.json"));
  document["version"] = 1;
  document.erase("parts");
  document.erase("state_xxh3");
  fs::remove(folder + "/part-00000-of-00001.safetensors");
  const char* names[] = {"values", "adam_m", "adam_v"};
  for (std::size_t span = 0; span < 3; ++span) {
    std::vector<SafetensorsEntry> entries;
    for (int p = 0; p < saved.params.count(); ++p) {
      const ParamSpec& spec = saved.params.spec(ParamId{p});
      const float* data = saved.spans()[span].as<float>() + saved.params.offset(ParamId{p});
      std::vector<std::int64_t> shape;
      for (int i = 0; i < spec.shape.rank(); ++i) shape.push_back(spec.shape[i]);
      entries.push_back({spec.name, DType::f32, shape, data});
      document["xxh3"][names[span]][spec.name] =
          xxh3_text(std::as_bytes(std::span(data, static_cast<std::size_t>(spec.shape.size()))));
    }
    write_safetensors(folder + "/" + names[span] + ".safetensors", entries);
  }
  document["state_xxh3"] = hash_of_text(document.dump());
  put(folder + "/state.json", document.dump());
  Holder loaded(2);
  ASSERT_EQ(loaded.load(run.path())->step, 7);
  EXPECT_TRUE(loaded.equals(saved));
  put_byte(folder + "/adam_v.safetensors", fs::file_size(folder + "/adam_v.safetensors") - 3, 7);
  EXPECT_ERROR(loaded.load(run.path()), "none of the 1 checkpoints");
  document["version"] = 3;
  document.erase("state_xxh3");
  document["state_xxh3"] = hash_of_text(document.dump());
  put(folder + "/state.json", document.dump());
  EXPECT_ERROR(loaded.load(run.path()), "has the format version 3, this program reads 1 to 2");
}

TEST(Checkpoint, MissingAndMisshapenArrays) {
  const TemporaryFolder run;
  Holder(1).save(run.path(), 1);
  Holder wide(1, 8);
  EXPECT_ERROR(wide.load(run.path()), "another shape");
}

/// Runs `body` in a child process; its exit status, or minus the signal that ended it.
template <class F>
int in_child(F&& body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    omp_set_num_threads(1);  // the parent's team does not live on here
    if (!freopen("/dev/null", "w", stderr)) _exit(98);
    int status = 99;
    try {
      status = body();
    } catch (...) {
    }
    _exit(status);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

void expect_old_or_new(const std::string& run, const Holder& old_one, const Holder& new_one,
                       const std::string& when) {
  Holder loaded(3);
  const auto state = loaded.load(run);
  ASSERT_TRUE(state.has_value()) << when;
  EXPECT_TRUE(state->step == 1 ? loaded.equals(old_one) : loaded.equals(new_one)) << when;
  // And the run can go on.
  new_one.save(run, 3, 1);
  EXPECT_EQ(loaded.load(run)->step, 3) << when;
  for (const auto& entry : fs::directory_iterator(run + "/checkpoints"))
    EXPECT_EQ(entry.path().filename(), "step_00000003") << when;
  EXPECT_EQ(std::distance(fs::directory_iterator(run), {}), 2) << when;  // and latest
}

TEST(CheckpointCrash, KilledAtEveryWritePoint) {
  const Holder old_one(1), new_one(2);
  for (const bool asynchronous : {false, true}) {
    int points = 0;
    for (;; ++points) {
      const TemporaryFolder run;
      old_one.save(run.path(), 1);
      const int ended = in_child([&] {
        set_write_point_hook([count = 0, points](const char*) mutable {
          if (count++ == points) raise(SIGKILL);
        });
        new_one.save(run.path(), 2, 1, asynchronous);
        return 0;
      });
      if (ended == 0) break;
      ASSERT_EQ(ended, -SIGKILL);
      expect_old_or_new(run.path(), old_one, new_one, "write point " + std::to_string(points));
    }
    EXPECT_GE(points, 18);
  }
}

TEST(CheckpointCrash, KilledInTheMiddleOfEveryFile) {
  const Holder old_one(1), new_one(2);
  // A process is ended by SIGXFSZ inside the write() that passes its file size limit.
  for (rlim_t limit : {0, 1, 10, 100, 500, 900, 1100, 1200, 1300, 1400, 1500, 1600, 2000, 3000,
                       4000, 6000, 8000}) {
    const TemporaryFolder run;
    old_one.save(run.path(), 1);
    const int ended = in_child([&] {
      const rlimit sizes{limit, limit}, no_core{0, 0};
      setrlimit(RLIMIT_CORE, &no_core);
      setrlimit(RLIMIT_FSIZE, &sizes);
      new_one.save(run.path(), 2, 1);
      return 0;
    });
    EXPECT_TRUE(ended == 0 || ended == -SIGXFSZ) << ended;
    if (limit <= 100) {
      EXPECT_EQ(ended, -SIGXFSZ);
    }
    expect_old_or_new(run.path(), old_one, new_one, "limit " + std::to_string(limit));
  }
}

TEST(CheckpointCrash, AFailingWriteLeavesNothingPartial) {
  const Holder old_one(1), new_one(2);
  for (int point = 0; point < 15; ++point) {  // up to the rename
    const TemporaryFolder run;
    old_one.save(run.path(), 1);
    set_write_point_hook([count = 0, point](const char*) mutable {
      if (count++ == point) fail("no more");
    });
    EXPECT_ERROR(new_one.save(run.path(), 2), "cannot save the checkpoint of step 2: no more");
    set_write_point_hook({});
    EXPECT_EQ(list_checkpoints(run.path()), std::vector<std::int64_t>{1});
    for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
      EXPECT_EQ(entry.path().filename(), "step_00000001");
    Holder loaded(3);
    EXPECT_EQ(loaded.load(run.path())->step, 1);
    EXPECT_TRUE(loaded.equals(old_one));
  }
}

TEST(CheckpointCrash, AFullDisk) {
  const Holder old_one(1), new_one(2);
  const TemporaryFolder run;
  // A file system of 24 KiB that only the child sees: one checkpoint fits, two do not.
  const int ended = in_child([&] {
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 77;
    mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (mount("tmpfs", run.path().c_str(), "tmpfs", 0, "size=24k") != 0) return 77;
    old_one.save(run.path(), 1);
    std::string sentence;
    try {
      new_one.save(run.path(), 2);
    } catch (const Error& error) {
      sentence = error.what();
    }
    if (sentence.find("cannot save the checkpoint of step 2") == std::string::npos) return 2;
    if (sentence.find("the disk is full") == std::string::npos) return 3;
    for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
      if (entry.path().filename() != "step_00000001") return 4;
    Holder loaded(3);
    if (loaded.load(run.path())->step != 1 || !loaded.equals(old_one)) return 5;
    return 0;
  });
  if (ended == 77) GTEST_SKIP() << "this system lets us mount nothing";
  EXPECT_EQ(ended, 0);
}

}  // namespace
}  // namespace t2r
