// The ranks that share out the tokens of each sequence. Each takes a stretch of every sequence, one
// after the other in order of rank, so that long sequences fit and work is even. Between layers
// tokens do not meet; linear attention exchanges states at the ends of the stretches (k d + k
// numbers a head and sequence), softmax attention keys and values.
#pragma once

#include <vector>

#include "core/model/batch.h"
#include "dist/comm.h"

namespace t2r {

class ContextParallel {
 public:
  /// One rank that has all tokens.
  ContextParallel() = default;
  /// `comm` must outlive this and its copies.
  explicit ContextParallel(Comm& comm) : comm_(&comm) {}

  int rank() const { return comm_ ? comm_->rank() : 0; }
  int size() const { return comm_ ? comm_->size() : 1; }
  bool active() const { return size() > 1; }
  Comm& comm() const { return *comm_; }  // where active

  /// Rank r has the tokens [begin_of(n, r), begin_of(n, r + 1)) of a sequence of n. May be none.
  std::int64_t begin_of(std::int64_t n, int of_rank) const { return n * of_rank / size(); }
  std::int64_t share_of(std::int64_t n, int of_rank) const {
    return begin_of(n, of_rank + 1) - begin_of(n, of_rank);
  }
  /// Rows of a batch of `whole` sequences that lie on a rank.
  std::int64_t rows_of(const Segments& whole, int of_rank) const;

 private:
  Comm* comm_ = nullptr;
};

/// This rank's part of a batch: its stretches of all sequences, with the positions, row ids and
/// targets that they have in the whole. Owns what it copies.
class BatchPart {
 public:
  /// `whole` and `context` must outlive this. Without several ranks nothing is copied.
  BatchPart(const Batch& whole, const ContextParallel& context);
  BatchPart(const BatchPart&) = delete;
  BatchPart& operator=(const BatchPart&) = delete;

  const Batch& batch() const { return batch_; }

 private:
  std::vector<std::int32_t> inputs_, targets_, positions_;
  std::vector<std::int64_t> row_ids_, offsets_;
  Batch batch_;
};

/// A state (segments, heads, k, d) and (segments, heads, k) in one piece of memory, so that it is
/// one message.
struct StateMessage {
  StateMessage(Arena& arena, const LinearAttentionShape& shape, std::int64_t segments, DType dtype);

  Tensor all;  // both, one after the other
  LinearState state;
};

// The exchanges of one attention layer. Collective over the context-parallel ranks of rows.context,
// also where this rank has no rows.

/// states = what comes before this rank's stretches: sum over earlier ranks r of gamma^n S_r, n
/// tokens lying between; S_r, which `states` held on rank r, is what its stretch alone adds up to.
/// gamma (heads) may be empty: 1.
void states_before(Step& step, const TokenRows& rows, const StateMessage& states, Tensor gamma);
/// The same in reverse for gradients: the sum over later ranks.
void state_gradients_after(Step& step, const TokenRows& rows, const StateMessage& states,
                           Tensor gamma);

/// Keys and values of every sequence up to the end of this rank's stretch, in step.scratch.
struct KeyValues {
  Tensor k, v;                        // (segments.rows(), columns of one rank's)
  std::vector<std::int64_t> offsets;  // of `segments`
  Segments segments;
};
KeyValues gather_key_values(Step& step, const TokenRows& rows, Tensor k, Tensor v);
/// dk, dv (rows, columns) = the sum over ranks of the gradients of what gather_key_values gave,
/// formed in accumulate_dtype.
void scatter_key_value_gradients(Step& step, const TokenRows& rows, const KeyValues& gradients,
                                 Tensor dk, Tensor dv);

}  // namespace t2r
