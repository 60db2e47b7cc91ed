// The ranks that hold one model together, a part each, as Megatron-LM splits it (Shoeybi et al.
// 2019): heads, feed-forward columns and vocabulary entries are shared out; activations between
// them, norms and the biases of row-split layers are the same on every rank.
#pragma once

#include "core/model/batch.h"
#include "core/model/config.h"
#include "core/model/params.h"
#include "dist/bucket_plan.h"
#include "dist/comm.h"

namespace t2r {

class TensorParallel {
 public:
  /// One rank that holds everything.
  TensorParallel() = default;
  /// `comm` must outlive this and its copies.
  explicit TensorParallel(Comm& comm) : comm_(&comm) {}

  int rank() const { return comm_ ? comm_->rank() : 0; }
  int size() const { return comm_ ? comm_->size() : 1; }
  bool active() const { return size() > 1; }

  /// A rank's stretch of n things; the stretches differ by at most one.
  std::int64_t begin_of(std::int64_t n, int of_rank) const { return n * of_rank / size(); }
  std::int64_t share_of(std::int64_t n, int of_rank) const {
    return begin_of(n, of_rank + 1) - begin_of(n, of_rank);
  }
  std::int64_t begin_of(std::int64_t n) const { return begin_of(n, rank()); }
  std::int64_t share_of(std::int64_t n) const { return share_of(n, rank()); }
  /// The part of a parameter with `whole` rows (dim 0) or columns (dim 1) that lies here.
  ParamPart part(int dim, std::int64_t whole) const {
    return active() ? ParamPart{dim, begin_of(whole), whole} : ParamPart{};
  }

  /// x = the sum, or the largest, over the ranks, the same bits on each. Collective; nothing
  /// happens where one rank holds everything. bf16 is summed in fp32.
  void sum(Step& step, Tensor x) const { reduce(step, x, ReduceOp::sum); }
  void max(Step& step, Tensor x) const { reduce(step, x, ReduceOp::max); }
  double sum(double value) const {
    return active() ? comm_->all_reduce_value(value, ReduceOp::sum) : value;
  }
  Comm* comm() const { return comm_; }

  // Sequence parallelism (Korthikanti et al. 2022): what is the same on every rank between the
  // split layers (norms, dropout, residual sums) is done by each for a stretch of the rows, and a
  // sum over ranks becomes a reduce-scatter before and an all-gather after.

  bool shares_rows(const Step& step) const { return active() && step.sequence_parallel; }
  /// The stretch of `rows` rows that is here: as long on every rank, but for the last ones.
  Range rows_here(const Step& step, std::int64_t rows) const;
  /// `rows` as they are here: of an embedding's input, or a dropout's row ids.
  const std::int64_t* row_ids_here(const Step& step, std::int64_t rows,
                                   const std::int64_t* row_ids) const;
  /// (rows, n) in step.scratch, the ranks' stretches together; `here` itself where rows are not
  /// shared. Collective.
  Tensor gather_rows(Step& step, Tensor here, std::int64_t rows) const;
  /// here = this rank's stretch of the sum of `part` (rows, n) over the ranks. Where rows are not
  /// shared both may be the same memory, and `here` is the whole sum. Collective.
  void sum_rows(Step& step, Tensor here, Tensor part) const;
  /// The sum of a tensor that every rank needs whole; left to sum_rows() where rows are shared.
  void sum_unless_shared(Step& step, Tensor x) const {
    if (!step.sequence_parallel) sum(step, x);
  }

 private:
  void reduce(Step& step, Tensor x, ReduceOp op) const;

  Comm* comm_ = nullptr;
};

/// `config` with the heads, key-value heads and feed-forward columns that one rank has. A usage
/// error when they cannot be shared out evenly.
ModelConfig part_of_model(const ModelConfig& config, const TensorParallel& parallel);

/// One parameter: the parts that the ranks hold come together in `whole`, room for
/// whole_shape() elements of the span's type, on the ranks that give it (the others give null).
/// Collective over the tensor-parallel ranks.
void gather_parameter(const TensorParallel& parallel, const ParamStore& params, Tensor span,
                      ParamId id, void* whole);
/// For all parameters, in a span of the whole model, on the ranks that give one (the others give
/// null and an empty tensor). Collective over the tensor-parallel ranks.
void gather_parts(const TensorParallel& parallel, const ParamStore& params, Tensor span,
                  const ParamStore* whole, Tensor whole_span);

}  // namespace t2r
