// Where buckets begin and end, the mesh, the replica check, and how launches are recognised.
#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <map>

#include "dist/checking_comm.h"
#include "dist/gradient_reducer.h"
#include "dist/launcher.h"
#include "dist/mesh.h"
#include "dist/replica_check.h"
#include "dist/self_comm.h"
#include "dist/thread_comm.h"
#include "tests/dist/error_text.h"

namespace t2r {
namespace {

/// Notes what is started, tested and waited for; completes only when waited for.
class RecordingComm : public SelfComm {
 public:
  explicit RecordingComm(const float* base) : base_(base) {}
  std::unique_ptr<Pending> start_all_reduce(Tensor x, ReduceOp op, Queue) override {
    EXPECT_EQ(op, ReduceOp::sum);
    const auto begin = x.as<float>() - base_;
    log += fmt::format("[{},{}) ", begin, begin + x.size());
    return std::make_unique<Note>(*this, begin);
  }
  std::string log;
  bool complete = false;

 private:
  class Note : public Pending {
   public:
    Note(RecordingComm& comm, std::ptrdiff_t begin) : comm_(comm), begin_(begin) {}
    void wait() override { comm_.log += fmt::format("wait{} ", begin_); }
    bool test() override {
      comm_.log += fmt::format("test{} ", begin_);
      return comm_.complete;
    }

   private:
    RecordingComm& comm_;
    std::ptrdiff_t begin_;
  };
  const float* base_;
};

TEST(GradientReducer, BucketsStartAtTheWatermark) {
  std::vector<float> grads(100);
  RecordingComm comm(grads.data());
  GradientReducer reducer(comm, Tensor(grads.data(), {10, 10}, DType::f32),
                          cut_buckets(100, {100, 81, 80, 80, 30, 29}, 20), Queue{});
  for (int step = 0; step < 2; ++step) {
    comm.log.clear();
    reducer.ready(100);
    reducer.ready(81);
    EXPECT_EQ(comm.log, "") << "19 elements are no bucket yet";
    reducer.ready(80);
    reducer.ready(80);
    reducer.ready(30);
    reducer.ready(29);
    reducer.finish();
    EXPECT_EQ(comm.log, "[80,100) test80 test80 [30,80) test80 test80 [0,30) wait80 wait30 wait0 ");
  }
  EXPECT_EQ(reducer.buckets_started(), 6);
  EXPECT_GE(reducer.exposed_seconds(), 0);
}

TEST(GradientReducer, WithoutOverlapTheSameBucketsStartAtTheEnd) {
  std::vector<float> grads(100);
  RecordingComm comm(grads.data());
  GradientReducer reducer(comm, Tensor(grads.data(), {100}, DType::f32),
                          cut_buckets(100, {80, 30}, 20), Queue{}, {.overlap = false});
  for (int step = 0; step < 2; ++step) {
    comm.log.clear();
    reducer.ready(80);
    reducer.ready(30);
    EXPECT_EQ(comm.log, "");
    reducer.finish();
    EXPECT_EQ(comm.log, "[80,100) [30,80) [0,30) wait80 wait30 wait0 ");
  }
}

TEST(GradientReducer, CompleteOnesAreNotWaitedForAgain) {
  std::vector<float> grads(10);
  RecordingComm comm(grads.data());
  comm.complete = true;
  GradientReducer reducer(comm, Tensor(grads.data(), {10}, DType::f32), {{5, 10}, {0, 5}}, Queue{});
  reducer.ready(5);
  reducer.ready(0);
  reducer.finish();
  EXPECT_EQ(comm.log, "[5,10) test5 [0,5) test0 ");
}

TEST(GradientReducer, ARankWithoutABatchStartsTheSameBuckets) {
  std::vector<float> grads(100);
  RecordingComm comm(grads.data());
  GradientReducer reducer(comm, Tensor(grads.data(), {100}, DType::f32),
                          cut_buckets(100, {80, 30}, 20), Queue{});
  reducer.finish();
  EXPECT_EQ(comm.log, "[80,100) [30,80) [0,30) wait80 wait30 wait0 ");
}

TEST(GradientReducer, ProgressLetsWhatIsPendingGoOn) {
  std::vector<float> grads(10);
  RecordingComm comm(grads.data());
  GradientReducer reducer(comm, Tensor(grads.data(), {10}, DType::f32), {{5, 10}, {0, 5}}, Queue{});
  reducer.progress();
  reducer.ready(5);
  reducer.progress();
  comm.complete = true;
  reducer.progress();
  reducer.progress();
  EXPECT_EQ(comm.log, "[5,10) test5 test5 test5 ");
}

TEST(GradientReducer, RisingOffsetsAreRefused) {
  std::vector<float> grads(100);
  SelfComm comm;
  const Tensor span(grads.data(), {100}, DType::f32);
  GradientReducer reducer(comm, span, {{0, 100}}, Queue{});
  reducer.ready(50);
  EXPECT_TRUE(contains(error_text([&] { reducer.ready(51); }), "element 51 after 50 of 100"));
  EXPECT_TRUE(contains(error_text([&] { reducer.ready(-1); }), "element -1 after 50"));
  const Tensor columns = span.view({10, 10}).column_range(0, 3);
  const auto refusal = [&](const Tensor& x, std::vector<Range> buckets) {
    return error_text([&] { GradientReducer(comm, x, buckets, Queue{}); });
  };
  EXPECT_TRUE(contains(refusal(columns, {{0, 30}}), "strided"));
  EXPECT_TRUE(contains(refusal(span, {{10, 100}}), "no bucket has the first 10"));
  EXPECT_TRUE(contains(refusal(span, {{50, 100}, {0, 40}}), "0 to 40 after 50"));
}

TEST(BucketPlan, CutsWhereBlocksBegin) {
  using Ranges = std::vector<Range>;
  EXPECT_EQ(cut_buckets(100, {81, 80, 30, 29}, 20), (Ranges{{80, 100}, {30, 80}, {0, 30}}));
  EXPECT_EQ(cut_buckets(100, {80, 0}, 20), (Ranges{{80, 100}, {0, 80}}));
  EXPECT_EQ(cut_buckets(100, {}, 1), (Ranges{{0, 100}}));
  EXPECT_EQ(cut_buckets(0, {0}, 1), Ranges{});
  EXPECT_TRUE(contains(error_text([] { cut_buckets(100, {30, 31}, 20); }), "from element 31"));
  EXPECT_TRUE(contains(error_text([] { cut_buckets(9, {}, 0); }), "0 elements"));
}

TEST(BucketPlan, PartsOfTheRanksAndTheRestCoverABucket) {
  for (int ranks : {1, 2, 3, 4, 7})
    for (std::int64_t size : {0, 1, 6, 7, 100}) {
      const Range bucket{11, 11 + size};
      std::int64_t at = bucket.begin;
      for (int r = 0; r < ranks; ++r) {
        EXPECT_EQ(part_of_bucket(bucket, r, ranks).begin, at);
        EXPECT_EQ(part_of_bucket(bucket, r, ranks).size(), size / ranks);
        at = part_of_bucket(bucket, r, ranks).end;
      }
      EXPECT_EQ(rest_of_bucket(bucket, ranks), (Range{at, bucket.end}));
      EXPECT_LT(bucket.end - at, ranks);
    }
}

TEST(Mesh, RanksAreDividedWithModelPartsInnermost) {
  run_ranks(6, [](Comm& world) {
    const Mesh mesh = make_mesh(world, 3, 2);
    EXPECT_EQ(mesh.dp->size(), 3);
    EXPECT_EQ(mesh.tp->size(), 2);
    EXPECT_EQ(mesh.dp->rank(), world.rank() / 2);
    EXPECT_EQ(mesh.tp->rank(), world.rank() % 2);
    const double neighbours = world.rank() / 2 * 2 * 2 + 1;
    EXPECT_EQ(mesh.tp->all_reduce_value(double(world.rank()), ReduceOp::sum), neighbours);
    EXPECT_EQ(mesh.dp->all_reduce_value(double(world.rank()), ReduceOp::max), 4 + world.rank() % 2);
    EXPECT_EQ(&mesh.world, &world);
  });
}

TEST(Mesh, TokensOfASequenceAreSharedBetweenDataAndModelParts) {
  run_ranks(12, [](Comm& world) {
    const Mesh mesh = make_mesh(world, 2, 2, 3);
    EXPECT_EQ(mesh.dp->size(), 2);
    EXPECT_EQ(mesh.cp->size(), 3);
    EXPECT_EQ(mesh.replicas->size(), 6);
    EXPECT_EQ((mesh.dp->rank() * 3 + mesh.cp->rank()) * 2 + mesh.tp->rank(), world.rank());
    EXPECT_EQ(mesh.replicas->rank(), mesh.dp->rank() * 3 + mesh.cp->rank());
    const double sequence = mesh.cp->all_reduce_value(double(world.rank()), ReduceOp::sum);
    EXPECT_EQ(sequence, 18.0 * mesh.dp->rank() + 6 + 3 * mesh.tp->rank());
  });
}

TEST(Mesh, WrongSizesAreUsageErrors) {
  SelfComm self;
  for (const auto& [dp, tp, cp, part] :
       {std::tuple{2, 1, 1, "needs 2 ranks, but this job has 1"}, std::tuple{0, 1, 1, "at least 1"},
        std::tuple{1, -1, 1, "at least 1"}, std::tuple{1, 1, 0, "at least 1"},
        std::tuple{1, 1, 3, "needs 3 ranks, but this job has 1"},
        std::tuple{1 << 20, 1 << 20, 1 << 20, "1152921504606846976 ranks"}}) {
    try {
      make_mesh(self, dp, tp, cp);
      ADD_FAILURE() << dp << " x " << cp << " x " << tp;
    } catch (const Error& e) {
      EXPECT_EQ(e.status(), kExitUsage);
      EXPECT_TRUE(contains(e.what(), part)) << e.what();
    }
  }
}

TEST(ReplicaCheck, NamesTheRanksThatDiffer) {
  for (const int bad : {0, 1, 2, 3}) {
    const std::string text = error_text([&] {
      run_ranks(4, [&](Comm& comm) {
        std::vector<float> x(1001, 0.5f);
        check_replicas_equal(comm, Tensor(x.data(), {1001}, DType::f32), "weights");
        if (comm.rank() == bad) x[1000] = std::nextafter(0.5f, 1.0f);
        check_replicas_equal(comm, Tensor(x.data(), {1000}, DType::f32), "all but the last");
        check_replicas_equal(comm, Tensor(x.data(), {1001}, DType::f32), "weights");
      });
    });
    EXPECT_TRUE(contains(text, fmt::format("weights: rank {} holds other values than ranks", bad)))
        << text;
  }
  const std::string two = error_text([] {
    run_ranks(2, [](Comm& comm) {
      double x = comm.rank();
      check_replicas_equal(comm, Tensor(&x, {1}, DType::f64), "state");
    });
  });
  EXPECT_TRUE(contains(two, "state: rank 1 holds other values than rank 0 (XXH3 ")) << two;
}

TEST(ReplicaCheck, SaysWhichLineOfATextDiffers) {
  const auto texts = [](std::vector<std::string> all) {
    run_ranks(static_cast<int>(all.size()),
              [&](Comm& comm) { check_same_text(comm, all[comm.rank()], "their options"); });
  };
  EXPECT_NO_THROW(texts({"a = 1\nb = 2\n", "a = 1\nb = 2\n", "a = 1\nb = 2\n"}));
  EXPECT_NO_THROW(texts({""}));
  EXPECT_EQ(error_text([&] {
              texts({"a = 1\nb = 2\n", "a = 1\nb = 2\n", "a = 1\nb = 3\n"});
            }),
            "the ranks disagree on their options: rank 2 has b = 3, rank 0 has b = 2; start all "
            "ranks with the same");
  const std::string shorter = error_text([&] { texts({"a = 1\nb = 2\n", "a = 1\n"}); });
  EXPECT_TRUE(contains(shorter, "rank 1 has nothing, rank 0 has b = 2")) << shorter;
}

TEST(ReplicaCheck, LooksAtTheRowsOfAStridedTensorOnly) {
  std::vector<float> a(35), b(35);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = b[i] = static_cast<float>(i);
  const auto columns = [](std::vector<float>& x) {
    return Tensor(x.data(), {5, 7}, DType::f32).column_range(2, 5);
  };
  b[0] = b[8] = b[12] = -1;  // columns 0, 1 and 5
  EXPECT_EQ(hash_of(columns(a)), hash_of(columns(b)));
  b[4 * 7 + 4] = -1;
  EXPECT_NE(hash_of(columns(a)), hash_of(columns(b)));
  SelfComm self;
  EXPECT_NO_THROW(check_replicas_equal(self, Tensor(nullptr, {0}, DType::f32), "nothing"));
}

Launch launch_of(const std::map<std::string, std::string>& variables) {
  return detect_launch([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Launcher, IsRecognisedByItsVariables) {
  EXPECT_EQ(launch_of({}).launcher, "");
  EXPECT_EQ(launch_of({{"OMPI_COMM_WORLD_SIZE", "4"}}).size, 4);
  EXPECT_EQ(launch_of({{"PMI_SIZE", "3"}, {"PMI_RANK", "0"}}).size, 3);
  EXPECT_EQ(launch_of({{"PMIX_RANK", "0"}}).size, 0);
  // A batch script of 8 tasks is one process; a step of it has 8.
  EXPECT_EQ(launch_of({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}).launcher, "");
  const std::map<std::string, std::string> step{
      {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_STEP_ID", "0"}};
  EXPECT_EQ(launch_of(step).launcher, "srun");
  EXPECT_EQ(launch_of(step).size, 8);
  EXPECT_FALSE(launch_of(step).process_management);
  auto with_pmix = step;
  with_pmix["PMIX_RANK"] = "0";
  EXPECT_TRUE(launch_of(with_pmix).process_management);
  auto smaller_step = with_pmix;
  smaller_step["SLURM_STEP_NUM_TASKS"] = "2";
  EXPECT_EQ(launch_of(smaller_step).size, 2);
  auto single = step;
  single["SLURM_STEP_NUM_TASKS"] = "1";
  EXPECT_EQ(launch_of(single).launcher, "");
  auto mpirun_in_slurm = step;
  mpirun_in_slurm["OMPI_COMM_WORLD_SIZE"] = "2";
  EXPECT_EQ(launch_of(mpirun_in_slurm).launcher, "mpirun");
}

TEST(Launcher, AnotherMpisLauncherIsRefused) {
  const Launch launch = launch_of({{"OMPI_COMM_WORLD_SIZE", "4"}});
  EXPECT_NO_THROW(check_launched_size(launch, 4));
  EXPECT_NO_THROW(check_launched_size(launch_of({{"PMIX_RANK", "0"}}), 2));
  const std::string text = error_text([&] { check_launched_size(launch, 1); });
  EXPECT_TRUE(contains(text, "mpirun started 4 processes, but MPI counts 1 rank:")) << text;
}

TEST(Launcher, ThreadsFollowTheVariableElseTheShareOfCores) {
  RankPlace place;
  place.cores = 3;
  setenv("OMP_NUM_THREADS", "5,2", 1);
  EXPECT_EQ(default_threads(place), 5);
  setenv("OMP_NUM_THREADS", "many", 1);
  EXPECT_EQ(default_threads(place), 3);
  unsetenv("OMP_NUM_THREADS");
  EXPECT_EQ(default_threads(place), 3);
}

TEST(Launcher, RanksOfOneMachineShareItsCores) {
  SelfComm self;
  const RankPlace alone = rank_place(self);
  EXPECT_EQ(alone.local_size, 1);
  EXPECT_GE(alone.cores, 1);
  EXPECT_FALSE(alone.host.empty());
  run_ranks(3, [&](Comm& comm) {
    CheckingComm checking(comm.split(0, comm.rank()));
    const RankPlace place = rank_place(checking);
    EXPECT_EQ(place.local_rank, comm.rank());
    EXPECT_EQ(place.local_size, 3);
    EXPECT_EQ(place.cores, std::max(1, alone.cores / 3));
  });
}

TEST(Launcher, RanksThatAreBoundApartKeepTheirCores) {
  SelfComm self;
  if (rank_place(self).cores < 2) GTEST_SKIP() << "needs two processors";
  run_ranks(2, [](Comm& comm) {
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &all) && seen++ == comm.rank()) CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    EXPECT_EQ(rank_place(comm).cores, 1);
  });
}

TEST(Launcher, WithoutOneThereIsOneRank) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_ID"})
    unsetenv(name);
  EXPECT_EQ(make_world_comm(false)->kind(), "self");
  EXPECT_EQ(make_world_comm(true)->kind(), "checking self");
}

}  // namespace
}  // namespace t2r
