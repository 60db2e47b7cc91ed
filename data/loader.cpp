// The batches of one data-parallel rank, made ahead of time.
#include "data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <variant>

#include "core/base/error.h"

namespace t2r {

struct Loader::State {
  static constexpr std::size_t kAhead = 4;  // batches

  std::variant<Sampler, PairSampler> sampler;
  int rank, ranks;
  std::int64_t micro_batch, step;  // micro_batch: windows, or tokens of pairs

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<TokenBatch> ready;
  std::exception_ptr error;
  bool stop = false;
  std::thread thread;

  State(std::variant<Sampler, PairSampler> s, int rank_, int ranks_, std::int64_t micro_batch_,
        std::int64_t first_step)
      : sampler(std::move(s)),
        rank(rank_),
        ranks(ranks_),
        micro_batch(micro_batch_),
        step(first_step) {
    check(ranks > 0 && rank >= 0 && rank < ranks, "loader rank {} of {}", rank, ranks);
    check(first_step >= 0, "a loader from step {}", first_step);
  }

  /// Waits for room; false when the loader ends.
  bool put(TokenBatch batch) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return stop || ready.size() < kAhead; });
    if (stop) return false;
    ready.push_back(std::move(batch));
    changed.notify_all();
    return true;
  }

  /// Where this rank's part of a plan begins, is cut into micro-steps, and ends.
  std::vector<std::int64_t> cuts(const Sampler& windows, const WindowPlan& plan) const {
    const std::int64_t size = std::ssize(plan.sample_ids);
    const std::int64_t begin = size * rank / ranks, end = size * (rank + 1) / ranks;
    const std::int64_t largest_slice = (windows.global_batch_sequences() + ranks - 1) / ranks;
    std::vector<std::int64_t> places{begin};
    for (std::int64_t done = 0; done < largest_slice; done += micro_batch)
      places.push_back(std::min(places.back() + micro_batch, end));
    return places;
  }
  std::vector<std::int64_t> cuts(const PairSampler&, const PairPlan& plan) const {
    return deal_pairs(plan, rank, ranks, micro_batch);
  }

  /// The batches of one update; false when the loader ends.
  template <class S>
  bool put_update(const S& samples) {
    const auto plan = samples.plan(step);
    const std::vector<std::int64_t> places = cuts(samples, plan);
    for (std::size_t micro_step = 0; micro_step + 1 < places.size(); ++micro_step) {
      TokenBatch batch = samples.batch(plan, places[micro_step], places[micro_step + 1]);
      batch.micro_step = static_cast<std::int64_t>(micro_step);
      batch.last_micro_step = micro_step + 2 == places.size();
      if (!put(std::move(batch))) return false;
    }
    return true;
  }

  void run() {
    try {
      while (std::visit([&](const auto& samples) { return put_update(samples); }, sampler)) ++step;
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
      changed.notify_all();
    }
  }
};

Loader::Loader(Sampler sampler, int rank, int ranks, std::int64_t micro_batch,
               std::int64_t first_step) {
  check_usage(micro_batch > 0, "a micro-batch of {} sequences: at least 1 is needed", micro_batch);
  state_ = std::make_unique<State>(std::move(sampler), rank, ranks, micro_batch, first_step);
  state_->thread = std::thread([state = state_.get()] { state->run(); });
}

Loader::Loader(PairSampler sampler, int rank, int ranks, std::int64_t micro_batch_tokens,
               std::int64_t first_step) {
  check_usage(micro_batch_tokens > 0, "a micro-batch of {} tokens: at least 1 is needed",
              micro_batch_tokens);
  state_ = std::make_unique<State>(std::move(sampler), rank, ranks, micro_batch_tokens, first_step);
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
