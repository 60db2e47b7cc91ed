// All collectives on one rank and on threads, plain and checked, and how they fail.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "dist/checking_comm.h"
#include "dist/self_comm.h"
#include "dist/thread_comm.h"
#include "tests/dist/comm_cases.h"
#include "tests/dist/error_text.h"

namespace t2r {
namespace {

class Ranks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Ranks, testing::Values(1, 2, 3, 4));

TEST_P(Ranks, AllReduce) {
  run_ranks(GetParam(), cases::all_reduce_case<float>);
  run_ranks(GetParam(), cases::all_reduce_case<double>);
}

TEST_P(Ranks, StartAllReduce) {
  run_ranks(GetParam(), cases::start_all_reduce_case<float>);
  run_ranks(GetParam(), cases::start_all_reduce_case<double>);
}

TEST_P(Ranks, ReduceScatter) {
  run_ranks(GetParam(), cases::reduce_scatter_case<float>);
  run_ranks(GetParam(), cases::reduce_scatter_case<double>);
  run_ranks(GetParam(), cases::start_scatter_and_gather_case<float>);
  run_ranks(GetParam(), cases::start_scatter_and_gather_case<double>);
}

TEST_P(Ranks, AllGather) {
  run_ranks(GetParam(), cases::all_gather_case<float>);
  run_ranks(GetParam(), cases::all_gather_case<double>);
  run_ranks(GetParam(), cases::all_gather_case<bf16>);
}

TEST_P(Ranks, Broadcast) {
  run_ranks(GetParam(), cases::broadcast_case<float>);
  run_ranks(GetParam(), cases::broadcast_case<double>);
  run_ranks(GetParam(), cases::broadcast_case<bf16>);
}

TEST_P(Ranks, ValuesSplitsAndRefusals) {
  run_ranks(GetParam(), cases::value_case);
  run_ranks(GetParam(), cases::split_case);
  run_ranks(GetParam(), cases::refusal_case);
}

TEST_P(Ranks, Reducer) {
  run_ranks(GetParam(), cases::reducer_cases);
}

/// Runs `f` on ranks whose communicator checks their calls. Threads compare calls too, but their
/// numbers count the agreements as well: a right number shows that the checking one found a fault.
void run_checking(int size, const std::function<void(Comm&)>& f) {
  run_ranks(size, [&](Comm& comm) {
    CheckingComm checking(comm.split(0, comm.rank()));
    f(checking);
  });
}

TEST_P(Ranks, CheckingCommDoesAllOfIt) {
  run_checking(GetParam(), cases::all_cases);
}

TEST(SelfComm, DoesAllOfIt) {
  SelfComm self;
  cases::all_cases(self);
  EXPECT_EQ(self.kind(), "self");
}

TEST(SelfComm, AbortEndsTheProcess) {
  EXPECT_EXIT(SelfComm().abort(7), testing::ExitedWithCode(7), "");
}

TEST(ThreadComm, SumsInTheOrderOfRanks) {
  run_ranks(4, [](Comm& comm) {
    const std::array<float, 4> terms{1e8f, 1.0f, -1e8f, 1.0f};
    float x = terms[comm.rank()];
    comm.all_reduce(Tensor(&x, {1}, DType::f32), ReduceOp::sum, Queue{});
    EXPECT_EQ(x, ((terms[0] + terms[1]) + terms[2]) + terms[3]);
  });
}

TEST(ThreadComm, ABarrierWaitsForEveryRank) {
  std::atomic<int> arrived{0};
  run_ranks(4, [&](Comm& comm) {
    for (int round = 1; round <= 50; ++round) {
      if (comm.rank() == round % 4) std::this_thread::sleep_for(std::chrono::microseconds(200));
      ++arrived;
      comm.barrier();
      EXPECT_EQ(arrived.load(), 4 * round) << "rank " << comm.rank() << " did not wait";
      comm.barrier();
    }
  });
}

TEST(ThreadComm, AnExceptionEndsTheOthersAndIsTheOneThrown) {
  for (int bad = 0; bad < 4; ++bad) {
    std::atomic<int> given_up = 0;
    const auto rank_main = [&](Comm& comm) {
      auto part = comm.split(comm.rank() / 2, 0);
      if (comm.rank() == bad) throw std::runtime_error("the cause");
      try {
        if (comm.rank() % 2 == 0)
          comm.barrier();
        else
          part->barrier();
        comm.all_reduce_value(1.0, ReduceOp::sum);
      } catch (const Error&) {
        ++given_up;
        throw;
      }
    };
    try {
      run_ranks(4, rank_main);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "the cause");
    }
    EXPECT_EQ(given_up, 3);
  }
}

TEST(ThreadComm, MemoryOfAFailedRankIsNotTouchedAgain) {
  // Under the address sanitizer this finds a reduction into a freed tensor.
  for (int round = 0; round < 50; ++round)
    EXPECT_THROW(run_ranks(3,
                           [](Comm& comm) {
                             std::vector<float> x(1000, 1.0f);
                             auto pending = comm.start_all_reduce(
                                 Tensor(x.data(), {1000}, DType::f32), ReduceOp::sum, Queue{});
                             if (comm.rank() == 1) throw std::runtime_error("rank 1");
                             pending->wait();
                             comm.barrier();
                           }),
                 std::runtime_error);
}

TEST(ThreadComm, ARankThatEndsEarlyIsNamed) {
  const std::string text = error_text([] {
    run_ranks(3, [](Comm& comm) {
      if (comm.rank() != 1) comm.barrier();
    });
  });
  EXPECT_TRUE(contains(text, "rank 1 of 3 ended while rank")) << text;
}

TEST(ThreadComm, ADroppedPendingIsAnError) {
  const std::string text = error_text([] {
    run_ranks(2, [](Comm& comm) {
      float x = 1;
      if (comm.rank() == 0)
        comm.start_all_reduce(Tensor(&x, {1}, DType::f32), ReduceOp::sum, Queue{});
      else {
        comm.split(0, 0);
      }
    });
  });
  EXPECT_FALSE(text.empty());
}

TEST(ThreadComm, AbortEndsAllRanks) {
  const std::string text = error_text([] {
    run_ranks(3, [](Comm& comm) {
      if (comm.rank() == 2) comm.abort(5);
      comm.barrier();
    });
  });
  EXPECT_EQ(text, "rank 2 ended the job with status 5");
}

TEST(CheckingComm, DifferentCounts) {
  const std::string text = error_text([] {
    run_checking(3, [](Comm& comm) {
      std::vector<float> x(100 + comm.rank() / 2);
      comm.barrier();
      comm.all_reduce(Tensor(x.data(), {std::ssize(x)}, DType::f32), ReduceOp::sum, Queue{});
    });
  });
  EXPECT_EQ(text,
            "the 3 ranks disagree on collective number 1: ranks 0-1 called all_reduce(sum of 100 "
            "fp32), rank 2 called all_reduce(sum of 101 fp32)");
}

TEST(CheckingComm, DifferentOperationsTypesAndRoots) {
  const std::string ops = error_text([] {
    run_checking(2, [](Comm& comm) {
      comm.all_reduce_value(1.0, comm.rank() ? ReduceOp::max : ReduceOp::sum);
    });
  });
  EXPECT_TRUE(contains(
      ops, "number 0: rank 0 called all_reduce(sum of 1 fp64), rank 1 called all_reduce(max"))
      << ops;
  const std::string types = error_text([] {
    run_checking(2, [](Comm& comm) {
      double x = 0;
      comm.broadcast(Tensor(&x, {1}, comm.rank() ? DType::f64 : DType::f32), 0, Queue{});
    });
  });
  EXPECT_TRUE(contains(types, "number 0: rank 0 called broadcast(1 fp32 from rank 0)")) << types;
  const std::string roots = error_text([] {
    run_checking(4, [](Comm& comm) {
      double x = 0;
      comm.broadcast(Tensor(&x, {1}, DType::f64), comm.rank() == 2 ? 1 : 0, Queue{});
    });
  });
  EXPECT_TRUE(
      contains(roots, "number 0: ranks 0-1, 3 called broadcast(1 fp64 from rank 0), rank 2 called"))
      << roots;
}

TEST(CheckingComm, ACallThatOneRankLeavesOut) {
  const std::string between = error_text([] {
    run_checking(2, [](Comm& comm) {
      float x = 1;
      if (comm.rank() == 0)
        comm.start_all_reduce(Tensor(&x, {1}, DType::f32), ReduceOp::sum, Queue{})->wait();
      comm.barrier();
    });
  });
  EXPECT_EQ(between,
            "the 2 ranks disagree on collective number 0: rank 0 called start_all_reduce(sum of 1 "
            "fp32), rank 1 called barrier");
  const std::string last = error_text([] {
    run_checking(2, [](Comm& comm) {
      comm.barrier();
      if (comm.rank() == 1) comm.split(0, 0);
    });
  });
  EXPECT_EQ(last,
            "the 2 ranks disagree on collective number 1: rank 0 called nothing more (it gave the "
            "communicator up), rank 1 called split");
}

TEST(CheckingComm, CallsInAnotherOrder) {
  const std::string text = error_text([] {
    run_checking(2, [](Comm& comm) {
      const auto sum = [&] { comm.all_reduce_value(1.0, ReduceOp::sum); };
      if (comm.rank() == 0) sum();
      comm.barrier();
      if (comm.rank() == 1) sum();
    });
  });
  EXPECT_TRUE(contains(text, "collective number 0: rank 0 called all_reduce")) << text;
}

TEST(CheckingComm, GroupsOfASplitAreChecked) {
  const std::string text = error_text([] {
    run_checking(4, [](Comm& comm) {
      auto part = comm.split(comm.rank() / 2, comm.rank());
      EXPECT_EQ(part->kind(), "checking threads");
      if (comm.rank() == 3)
        part->all_reduce_value(1.0, ReduceOp::sum);
      else
        part->barrier();
    });
  });
  EXPECT_TRUE(contains(text, "the 2 ranks disagree")) << text;
}

TEST(CollectiveCall, ListsOfRanks) {
  std::vector<int> all(1000);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(rank_list(all), "0-999");
  EXPECT_EQ(rank_list(std::vector<int>{3}), "3");
  EXPECT_EQ(rank_list(std::vector<int>{0, 2, 3, 4, 9}), "0, 2-4, 9");
  EXPECT_EQ(rank_list(std::vector<int>{0, 2, 4, 6}, 2), "0, 2 and 2 more");
}

}  // namespace
}  // namespace t2r
