// A signal that arrives in the middle of a product must change nothing but the flag.
#include "core/train/stop_request.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "core/base/random.h"
#include "kernels/linear.h"

namespace t2r {
namespace {

std::vector<float> random_values(std::int64_t count, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(random_normal(seed, 1, i));
  return values;
}

TEST(StopSignals, ProductsSurviveThem) {
  omp_set_num_threads(1);
  // Sizes whose generated code keeps values far below the stack pointer.
  constexpr std::int64_t kRows = 8, kIn = 8, kOut = 128;
  std::vector<float> x = random_values(kRows * kIn, 1), w = random_values(kOut * kIn, 2),
                     dy = random_values(kRows * kOut, 3);
  const Tensor tx(x.data(), {kRows, kIn}, DType::f32), tw(w.data(), {kOut, kIn}, DType::f32),
      tdy(dy.data(), {kRows, kOut}, DType::f32);
  const LinearWeight weight(tw);
  const auto products = [&] {
    std::vector<float> y(kRows * kOut), dx(kRows * kIn), dw(kOut * kIn);
    linear_forward(Queue{}, Tensor(y.data(), {kRows, kOut}, DType::f32), tx, weight, {});
    linear_backward_input(Queue{}, Tensor(dx.data(), {kRows, kIn}, DType::f32), tdy, weight);
    linear_backward_weight(Queue{}, Tensor(dw.data(), {kOut, kIn}, DType::f32), {}, tdy, tx);
    y.insert(y.end(), dx.begin(), dx.end());
    y.insert(y.end(), dw.begin(), dw.end());
    return y;
  };
  const std::vector<float> expected = products();

  const StopSignals signals;
  std::atomic<bool> done{false};
  const pthread_t worker = pthread_self();
  std::thread sender([&] {
    while (!done) {
      pthread_kill(worker, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(5));
    }
  });
  int differing = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (std::chrono::steady_clock::now() < end) differing += products() != expected;
  done = true;
  sender.join();
  EXPECT_EQ(differing, 0);
  EXPECT_TRUE(stop_requested());
}

}  // namespace
}  // namespace t2r
