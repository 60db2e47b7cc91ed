// The batches of one data-parallel rank, made ahead of time.
#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "core/base/error.h"

namespace t2r {

struct Loader::State {
  static constexpr std::size_t kAhead = 4;  // batches

  Sampler sampler;
  int rank, ranks;
  std::int64_t micro_batch, micro_steps, step;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<TokenBatch> ready;
  std::exception_ptr error;
  bool stop = false;
  std::thread thread;

  State(Sampler s, int rank_, int ranks_, std::int64_t micro_batch_, std::int64_t micro_steps_,
        std::int64_t first_step)
      : sampler(std::move(s)),
        rank(rank_),
        ranks(ranks_),
        micro_batch(micro_batch_),
        micro_steps(micro_steps_),
        step(first_step) {}

  /// Waits for room; false when the loader ends.
  bool put(TokenBatch batch) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return stop || ready.size() < kAhead; });
    if (stop) return false;
    ready.push_back(std::move(batch));
    changed.notify_all();
    return true;
  }

  void run() {
    try {
      for (;; ++step) {
        const WindowPlan plan = sampler.plan(step);
        const std::int64_t size = std::ssize(plan.sample_ids);
        const std::int64_t begin = size * rank / ranks, end = size * (rank + 1) / ranks;
        for (std::int64_t micro_step = 0; micro_step < micro_steps; ++micro_step) {
          const std::int64_t first = std::min(begin + micro_step * micro_batch, end);
          TokenBatch batch = sampler.batch(plan, first, std::min(first + micro_batch, end));
          batch.micro_step = micro_step;
          if (!put(std::move(batch))) return;
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }
};

Loader::Loader(Sampler sampler, int rank, int ranks, std::int64_t micro_batch,
               std::int64_t first_step) {
  check(ranks > 0 && rank >= 0 && rank < ranks, "loader rank {} of {}", rank, ranks);
  check_usage(micro_batch > 0, "a micro-batch of {} sequences: at least 1 is needed", micro_batch);
  check(first_step >= 0, "a loader from step {}", first_step);
  const std::int64_t largest_slice = (sampler.global_batch_sequences() + ranks - 1) / ranks;
  micro_steps_ = (largest_slice + micro_batch - 1) / micro_batch;
  state_ = std::make_unique<State>(std::move(sampler), rank, ranks, micro_batch, micro_steps_,
                                   first_step);
  state_->thread = std::thread([state = state_.get()] { state->run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
    state_->changed.notify_all();
  }
  state_->thread.join();
}

TokenBatch Loader::next() {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return !state_->ready.empty() || state_->error; });
  if (state_->ready.empty()) std::rethrow_exception(state_->error);
  TokenBatch batch = std::move(state_->ready.front());
  state_->ready.pop_front();
  state_->changed.notify_all();
  return batch;
}

}  // namespace t2r
