// AdamW over the flat arenas of a model, with the norm of all gradients and fp32 master weights for
// bf16 models; the state on every rank, or shared out.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "core/base/arena.h"
#include "core/base/tensor.h"
#include "core/model/params.h"
#include "core/model/tensor_parallel.h"
#include "dist/bucket_plan.h"
#include "kernels/adamw.h"

namespace t2r {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.98, eps = 1e-8;
  double weight_decay = 0.01;  // on the parameters that ask for it: matrices, not norms or biases
  /// Times the learning rate, for what did not exist before the swap or this run (is_new).
  double new_parameter_rate = 1;
};

/// Ranks that hold the same parameters may share out their optimizer state (ZeRO, Rajbhandari et
/// al. 2020, stage 1): a rank keeps master weights and moments of its parts of the gradients'
/// buckets only.
struct OptimizerSharding {
  Comm* replicas = nullptr;    // null: every rank keeps everything
  std::vector<Range> buckets;  // of the flat span, from the tail (cut_buckets)
  bool active() const { return replicas && replicas->size() > 1; }
};

/// A stretch of the flat span of trained parameters whose optimizer state this rank keeps.
struct OwnedRange {
  std::int64_t begin, end;  // elements of the span
  Tensor master, first_moment, second_moment;
  bool by_all = false;  // every rank keeps it: the few elements that cannot be shared out evenly
};

class Optimizer {
 public:
  /// `params` needs gradients and must outlive the optimizer. Takes the present values as master
  /// weights; moments start at zero.
  Optimizer(ParamStore& params, const AdamWOptions& options, OptimizerSharding sharding = {});

  /// The L2 norm of all gradients, those that other ranks hold included. Summed in a fixed order
  /// that does not depend on threads; not finite when any gradient is not. Collective.
  double global_norm(Queue queue, const TensorParallel& parallel = {}) const;
  /// The name of the first parameter with a gradient that holds something that is not finite, or
  /// "". Collective over the ranks that share the state.
  std::string first_bad_gradient() const;
  /// One AdamW update; gradients are multiplied by `grad_scale` first. `update` counts from 1. With
  /// sharding every rank updates its ranges and gets the values of the others': collective.
  void update(Queue queue, double learning_rate, double grad_scale, std::int64_t update);

  bool sharded() const { return sharding_.active(); }
  /// Spans as long as the gradients, in accumulate_dtype. master() is the values' own memory unless
  /// the model is bf16. Where the state is sharded there are none, but for that memory.
  Tensor master() const;
  Tensor first_moment() const { return whole(m_); }
  Tensor second_moment() const { return whole(v_); }
  /// What of them lies here, ascending; all of it where nothing is sharded. Together the ranks that
  /// hold the same parameters own the whole span.
  const std::vector<OwnedRange>& owned() const { return owned_; }
  /// Bytes of moments and master weights that this rank keeps.
  std::int64_t state_bytes() const;

  /// Seconds spent waiting for values of other ranks since construction.
  double exposed_seconds() const { return exposed_seconds_; }

 private:
  struct Run {  // neighbours with the same weight decay and learning rate
    std::int64_t begin, end;
    bool decay, is_new;
  };

  const Tensor& whole(const Tensor& state) const;
  void own(const Range& range, bool by_all);
  void update_range(Queue queue, const OwnedRange& range, AdamWStep step);
  /// Sends this rank's part of a bucket's values, gets the others'.
  void start_gather(Queue queue, const Range& bucket);
  void finish_gather();

  ParamStore& params_;
  AdamWOptions options_;
  OptimizerSharding sharding_;
  Arena arena_;
  Tensor master_, m_, v_;  // of the owned ranges, one after the other; no master_ where the values
                           // are as precise
  std::int64_t owned_state_ = 0;
  std::vector<OwnedRange> owned_;
  std::vector<Run> runs_;
  std::deque<std::unique_ptr<Pending>> gathering_;
  double exposed_seconds_ = 0;
};

/// The factor that brings a gradient of norm `norm` down to `limit`; 1 when it is below, or when
/// `limit` is 0 (no clipping).
double clip_factor(double norm, double limit);

}  // namespace t2r
