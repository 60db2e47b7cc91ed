// The small layers: linear projection, norm, embedding. Each is parameters plus a forward and a
// backward that reads as forward reversed. Gradients of parameters are +=, of activations =; those
// of parameters that are not trained are not formed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model/batch.h"
#include "core/model/config.h"
#include "core/model/lora.h"
#include "core/model/params.h"
#include "core/model/tensor_parallel.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"

namespace t2r {

/// y = x W^T + b, where W may be several glued parameters (query, key and value as one product).
/// Tensor-parallel ranks share out its outputs (each has columns of y) or its inputs (each has
/// columns of x; y is summed over the ranks, and b is added once; with sequence parallelism the
/// caller sums).
class Linear {
 public:
  enum class Split : std::uint8_t { none, outputs, inputs };
  struct Part {
    std::string name;  // of the projection: parameters are name.weight and name.bias
    std::int64_t out;  // of the whole
  };

  Linear() = default;
  /// Adds parameters for the parts, all with `in` columns; sizes are of the whole layer.
  Linear(ParamStore& params, const std::vector<Part>& parts, std::int64_t in, bool bias,
         double init_scale, Split split = Split::none, const TensorParallel& parallel = {});
  /// Reads a weight matrix that another layer owns (a tied output); `bias` may be empty.
  static Linear tied(ParamId weight, ParamId bias = {});

  /// Makes the packed weight; after ParamStore::allocate().
  void bind(const ParamStore& params);

  void forward(Step& step, const ParamStore& params, Tensor y, Tensor x) const;
  /// dx may be empty (not wanted); += when `accumulate`. Where outputs are split it is this rank's
  /// part of a sum, which the caller forms (TensorParallel::sum). Where the step has a reducer it
  /// is told that the gradients from this layer's on are final.
  void backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                bool accumulate = false) const;

  /// Gradients before those of this layer.
  std::int64_t first_offset(const ParamStore& params) const {
    return params.gradient_offset(first_weight_);
  }
  /// Whether a parameter that is used before this layer's is trained.
  bool trained_before(const ParamStore& params) const {
    return params.trained_before(first_weight_);
  }

  const LinearWeight& weight() const { return packed_; }
  Tensor bias(const ParamStore& params) const;
  std::int64_t out() const { return packed_.out(); }

 private:
  ParamId first_weight_, last_weight_, first_bias_, last_bias_;
  LinearWeight packed_;
  LowRankAdapters adapters_;  // where TrainedPart asks for them
  Split split_ = Split::none;
  TensorParallel parallel_;
};

struct NormStats {
  Tensor mean, rstd;  // mean is empty for RMSNorm
};

class NormLayer {
 public:
  NormLayer() = default;
  NormLayer(ParamStore& params, const std::string& name, const ModelConfig& config);

  /// `stats` is where backward's statistics go, from step.activations.
  void forward(Step& step, const ParamStore& params, Tensor y, Tensor x, NormStats* stats) const;
  /// dx += gradient through the norm (the residual path's gradient is already there).
  void backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                const NormStats& stats, bool accumulate) const;

 private:
  Norm kind_ = Norm::layer_norm;
  double eps_ = 1e-5;
  ParamId weight_, bias_;
};

class Embedding {
 public:
  Embedding() = default;
  /// Tensor-parallel ranks share out the vocabulary; positions are the same on each.
  Embedding(ParamStore& params, const ModelConfig& config, const std::string& name,
            std::int64_t vocab_size, const TensorParallel& parallel);
  /// Fills the table of sinusoids; after ParamStore::allocate().
  void bind(const ModelConfig& config, DType dtype);

  void forward(Step& step, const ParamStore& params, Tensor y, const TokenRows& rows) const;
  void backward(Step& step, const ParamStore& params, Tensor dy, const TokenRows& rows) const;
  ParamId tokens() const { return tokens_; }
  bool trained(const ParamStore& params) const { return params.trained(tokens_); }

 private:
  VocabularyPart part() const;

  double scale_ = 1;
  std::int64_t max_positions_ = 0, vocab_size_ = 0;
  TensorParallel parallel_;
  Positions kind_ = Positions::learned;
  ParamId tokens_, positions_;
  std::shared_ptr<Arena> table_arena_;
  Tensor sinusoids_;
};

}  // namespace t2r
