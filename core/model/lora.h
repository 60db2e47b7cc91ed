// Low-rank adapters beside a frozen matrix (Hu et al. 2021): y += alpha / R * B A x.
#pragma once

#include <string>
#include <vector>

#include "core/model/batch.h"
#include "core/model/params.h"
#include "core/model/tensor_parallel.h"
#include "kernels/linear.h"

namespace t2r {

/// The adapters of the parts of one projection that TrainedPart names. Of each, A (R, in) begins
/// random and B, which is kept transposed as (R, out), at zero: the model begins as it was.
/// Tensor-parallel ranks share out the side that the matrix shares out; the gradient of the other
/// factor is then a sum over them (ParamSpec::summed).
class LowRankAdapters {
 public:
  struct Side {
    std::int64_t here, whole;
  };
  /// A matrix, without ".weight", whose outputs are columns of y from `begin` on.
  struct Part {
    std::string name;
    std::int64_t begin;
    Side out;
  };
  /// `split_dim`: the dimension of the matrix that tensor-parallel ranks share out, or -1.
  void add(ParamStore& params, const std::vector<Part>& parts, Side in, int split_dim,
           const TensorParallel& parallel);
  /// After ParamStore::allocate().
  void bind(const ParamStore& params);
  explicit operator bool() const { return !factors_.empty(); }

  /// y (rows, out) += of x (rows, in).
  void forward(Step& step, Tensor y, Tensor x) const;
  /// Gradients of the factors +=. Returns in step.scratch what backward_input() needs.
  Tensor backward(Step& step, const ParamStore& params, Tensor dy, Tensor x) const;
  /// dx (rows, in) +=.
  void backward_input(Step& step, Tensor dx, Tensor dhidden) const;

 private:
  struct Factor {
    std::int64_t begin, end;  // columns of y
    ParamId a, b;
    LinearWeight packed_b;
  };

  /// alpha / R * x A^T (rows, parts R) in step.scratch.
  Tensor hidden(Step& step, Tensor x) const;

  std::int64_t rank_ = 0;
  double scale_ = 1;
  std::vector<Factor> factors_;
  LinearWeight packed_a_;
};

/// What a matrix is with its adapter, where it has one: W (out, in) += alpha / R * B A, summed in
/// accumulate_dtype. `weight`: the whole matrix on the first of the tensor-parallel ranks, null on
/// the others. Collective over them.
void merge_adapter(const TensorParallel& parallel, const ParamStore& params, ParamId id,
                   void* weight);

}  // namespace t2r
