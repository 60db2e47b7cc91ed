// y = x W^T + b and its gradients: every matrix product with a weight. GEMM by oneDNN.
#pragma once

#include <cstdint>
#include <memory>

#include "core/base/tensor.h"

namespace t2r {

/// A weight matrix (out, in) and the packed copies of it that the GEMM library prefers. A copy is
/// remade when the weights' version has changed, so at most once an optimizer step.
class LinearWeight {
 public:
  LinearWeight() = default;
  /// `version` is raised by whoever changes the weights; null means that they never change.
  explicit LinearWeight(Tensor weight, const std::uint64_t* version = nullptr);

  const Tensor& tensor() const { return weight_; }
  std::int64_t out() const { return weight_.shape[0]; }
  std::int64_t in() const { return weight_.shape[1]; }

  struct Packed;  // defined by the implementation
  std::shared_ptr<Packed>& packed() const { return packed_; }
  std::uint64_t version() const { return version_ ? *version_ : 0; }

 private:
  Tensor weight_;
  const std::uint64_t* version_ = nullptr;
  mutable std::shared_ptr<Packed> packed_;
};

/// y (rows, out) = x (rows, in) W^T + bias (out). `bias` may be empty. x and y may be column ranges
/// of wider matrices (row_stride); all of one dtype, except that y may be of accumulate_dtype.
void linear_forward(Queue queue, Tensor y, Tensor x, const LinearWeight& weight, Tensor bias = {});

/// dx (rows, in) = dy (rows, out) W, or += when `accumulate`.
void linear_backward_input(Queue queue, Tensor dx, Tensor dy, const LinearWeight& weight,
                           bool accumulate = false);

/// dweight (out, in) += dy^T x and, where given, dbias (out) += column sums of dy; both gradients
/// in accumulate_dtype.
void linear_backward_weight(Queue queue, Tensor dweight, Tensor dbias, Tensor dy, Tensor x);

/// Compares one small product of each kind with a plain loop, because old math libraries compute
/// wrong results on new processors. Throws with the figures when they differ. For start-up.
void check_gemm(DType dtype);

}  // namespace t2r
