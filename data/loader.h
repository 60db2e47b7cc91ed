// The batches of one data-parallel rank, made ahead of time by a thread of its own.
#pragma once

#include <cstdint>
#include <memory>

#include "data/batch.h"
#include "data/pair_sampler.h"
#include "data/sampler.h"

namespace t2r {

/// The windows of an update are dealt in contiguous slices to ranks, and each slice to micro-steps
/// of at most `micro_batch` windows; sentence pairs alike, by tokens (deal_pairs). Every rank has
/// the same number of micro-steps in an update; a batch may be empty. The stream of batches is a
/// function of the arguments alone, so a loader that begins at `first_step` goes on exactly like
/// one that came there.
class Loader {
 public:
  Loader(Sampler sampler, int rank, int ranks, std::int64_t micro_batch,
         std::int64_t first_step = 0);
  Loader(PairSampler sampler, int rank, int ranks, std::int64_t micro_batch_tokens,
         std::int64_t first_step = 0);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The next batch: micro-steps 0, 1, ... of first_step, then of the update after it. What went
  /// wrong while it was made is thrown here, at its turn. A sampler in order gives empty batches
  /// past its end. The last of an update says so (last_micro_step), on every rank.
  TokenBatch next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace t2r
