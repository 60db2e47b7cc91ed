// AdamW over the flat arenas of a model, with the norm of all gradients and fp32 master weights for
// bf16 models.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/arena.h"
#include "core/base/tensor.h"
#include "core/model/params.h"
#include "core/model/tensor_parallel.h"

namespace t2r {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.98, eps = 1e-8;
  double weight_decay = 0.01;  // on the parameters that ask for it: matrices, not norms or biases
};

/// A stretch of the flat span of parameters whose optimizer state this rank keeps.
struct OwnedRange {
  std::int64_t begin, end;  // elements of the span
  Tensor master, first_moment, second_moment;
};

class Optimizer {
 public:
  /// `params` needs gradients and must outlive the optimizer. Takes the present values as master
  /// weights; moments start at zero.
  Optimizer(ParamStore& params, const AdamWOptions& options);

  /// The L2 norm of all gradients, those of other tensor-parallel ranks included. Summed in a fixed
  /// order that does not depend on threads; not finite when any gradient is not. Collective.
  double global_norm(Queue queue, const TensorParallel& parallel = {}) const;
  /// The name of the first parameter with a gradient that holds something that is not finite, or
  /// "".
  std::string first_bad_gradient() const;
  /// One AdamW update; gradients are multiplied by `grad_scale` first. `update` counts from 1.
  void update(Queue queue, double learning_rate, double grad_scale, std::int64_t update);

  /// Spans as long as the values, in accumulate_dtype. master() is the values' own memory unless
  /// the model is bf16.
  Tensor master() const { return master_; }
  Tensor first_moment() const { return m_; }
  Tensor second_moment() const { return v_; }
  /// What of them lies here, ascending. Together the ranks that hold the same parameters own the
  /// whole span, some of it perhaps several times.
  std::vector<OwnedRange> owned() const;
  /// After master() was written from outside: rounds it into the values.
  void values_from_master();

 private:
  struct Run {  // neighbours with the same weight decay
    std::int64_t begin, end;
    bool decay;
  };

  ParamStore& params_;
  AdamWOptions options_;
  Arena arena_;
  Tensor master_, m_, v_;
  std::vector<Run> runs_;
};

/// The factor that brings a gradient of norm `norm` down to `limit`; 1 when it is below, or when
/// `limit` is 0 (no clipping).
double clip_factor(double norm, double limit);

}  // namespace t2r
