// All parameters of a model: one arena for values, one for gradients, in forward order, those that
// are trained before the others.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/arena.h"
#include "core/base/tensor.h"
#include "core/model/trained_part.h"

namespace t2r {

/// constant: `scale` everywhere. identity: of (blocks, rows, columns), ones on each block's
/// diagonal; rows below it are uniform.
enum class Init : std::uint8_t { zeros, ones, constant, normal, uniform, decay, identity };

/// Which part of a whole parameter a rank of a tensor-parallel group holds: the stretch of one
/// dimension that begins at `begin`.
struct ParamPart {
  int dim = -1;  // 0: rows, 1: columns of a matrix; -1: the rank holds all of it
  std::int64_t begin = 0, whole = 0;
};

struct ParamSpec {
  std::string name;
  Shape shape;  // of what is held here
  Init init = Init::zeros;
  double scale = 1;  // standard deviation (normal) or bound (uniform)
  bool weight_decay = false;
  bool trainable = true;  // false: never trained, whatever TrainedPart says
  bool glued = false;     // follows the parameter before it without a gap: both read as one matrix
  bool summed = false;    // its gradient is a sum over the tensor-parallel ranks
  bool rows_shared = false;  // with sequence parallelism its gradient is a sum over the ranks
  ParamPart part = {};       // what `shape` is of the whole
  ParamGroup group = ParamGroup::model;

  bool split() const { return part.dim >= 0; }
  Shape whole_shape() const;
  /// The place in the whole parameter, row-major, of element `i` of what is held here.
  std::int64_t whole_index(std::int64_t i) const;
};

struct ParamId {
  int index = -1;
  explicit operator bool() const { return index >= 0; }
};

class ParamStore {
 public:
  /// `trained`: which parameters will have gradients.
  explicit ParamStore(const TrainedPart& trained = {}) : trained_part_(trained) {}

  /// Adds a parameter; order of calls = order of use in forward. Before allocate() only.
  ParamId add(ParamSpec spec);
  /// Puts the parameters from `first` on that belong to no other group yet into `group`. Before
  /// allocate() only.
  void assign(ParamId first, ParamGroup group);
  /// Makes the value arena (`dtype`) and the gradient arena (accumulate_dtype) of what is trained.
  void allocate(DType dtype);
  /// Fills every value from (seed, name, element of the whole): independent of ranks and of other
  /// parameters.
  void initialize(std::uint64_t seed);
  /// The same for one group.
  void initialize(std::uint64_t seed, ParamGroup group);

  int count() const { return static_cast<int>(specs_.size()); }
  const ParamSpec& spec(ParamId id) const { return specs_[id.index]; }
  /// The parameter of that name, or an empty id.
  ParamId find(const std::string& name) const;
  const TrainedPart& trained_part() const { return trained_part_; }
  /// Whether gradients of some are sums over the tensor-parallel ranks (ParamSpec::summed).
  bool sums_gradients() const { return sums_gradients_; }
  bool trained(ParamId id) const {
    return spec(id).trainable && trained_part_.trains(spec(id).group);
  }
  /// Whether a parameter that is used before this one is trained: without, no gradient is wanted
  /// of what goes in here.
  bool trained_before(ParamId id) const { return first_trained_ < id.index; }

  /// Elements before this parameter in the value arena, and before its gradient.
  std::int64_t offset(ParamId id) const { return offsets_[id.index]; }
  /// Where the gradients of this parameter and those behind it begin.
  std::int64_t gradient_offset(ParamId id) const { return gradient_offsets_[id.index]; }
  /// Elements of the values, gaps for alignment included (zeros in values and gradients).
  std::int64_t span_size() const { return span_size_; }
  /// Elements of the gradients: the values of what is trained begin the value arena.
  std::int64_t gradient_span() const { return gradient_span_; }
  /// Elements of all parameters together, without gaps.
  std::int64_t parameter_count() const;
  /// Of those that are trained.
  std::int64_t trained_count() const;

  DType dtype() const { return dtype_; }
  Tensor value(ParamId id) const;
  Tensor grad(ParamId id) const;
  /// Parameters [first, last], glued together, as one matrix (or vector) with the sum of their
  /// rows.
  Tensor value(ParamId first, ParamId last) const;
  Tensor grad(ParamId first, ParamId last) const;
  Tensor all_values() const;
  /// The values of what is trained; as long as all_grads().
  Tensor trained_values() const;
  Tensor all_grads() const;
  bool has_gradients() const { return static_cast<bool>(grads_); }

  /// Raised by touch() whenever values change: packed copies of weights are then remade.
  const std::uint64_t* version() const { return &version_; }
  void touch() { ++version_; }

 private:
  void lay_out();
  Tensor glue(const Tensor& span, ParamId first, ParamId last) const;

  std::vector<ParamSpec> specs_;
  TrainedPart trained_part_;
  std::vector<std::int64_t> offsets_, gradient_offsets_;
  std::unordered_map<std::string, int> by_name_;
  std::int64_t span_size_ = 0, gradient_span_ = 0;
  int first_trained_ = 0;  // parameter; count() where none is
  bool sums_gradients_ = false;
  DType dtype_ = DType::f32;
  Arena value_arena_{0}, grad_arena_{0};
  Tensor values_, grads_;
  std::uint64_t version_ = 1;
};

}  // namespace t2r
