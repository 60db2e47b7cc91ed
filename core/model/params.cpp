#include "core/model/params.h"

#include <cmath>
#include <cstring>

#include "core/base/random.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

// Every parameter that is not glued begins at a multiple of this many elements (64 bytes in bf16).
constexpr std::int64_t kAlignment = 32;

/// FNV-1a: names the random stream of a parameter.
std::uint64_t hash_of(const std::string& name) {
  std::uint64_t h = 0xCBF29CE484222325u;
  for (unsigned char c : name) h = (h ^ c) * 0x100000001B3u;
  return h;
}

/// The logit of head h's decay: factors from 1/2 (two tokens of memory) to 1 - 2^-8, so that heads
/// begin with short and long memories.
double decay_logit(std::int64_t head, std::int64_t heads) {
  const double octave = 1.0 + 7.0 * static_cast<double>(head) / std::max<double>(1, heads - 1.0);
  const double gamma = 1.0 - std::exp2(-octave);
  return std::log(gamma / (1.0 - gamma));
}

template <class T>
void initialize_values(T* values, const ParamSpec& spec, std::uint64_t seed) {
  const std::int64_t n = spec.shape.size(), whole = spec.whole_shape().size();
  const std::uint64_t stream = hash_of(spec.name);
#pragma omp parallel for schedule(static)
  for (std::int64_t i = 0; i < n; ++i) {
    double value = 0;
    const std::int64_t place = spec.whole_index(i);
    switch (spec.init) {
      case Init::zeros:
        break;
      case Init::ones:
        value = 1;
        break;
      case Init::constant:
        value = spec.scale;
        break;
      case Init::normal:
        value = spec.scale * random_normal(seed, stream, static_cast<std::uint64_t>(place));
        break;
      case Init::uniform:
        value =
            spec.scale * (2 * random_uniform(seed, stream, static_cast<std::uint64_t>(place)) - 1);
        break;
      case Init::identity: {
        const std::int64_t columns = spec.shape[2], row = place / columns % spec.shape[1];
        value = row < columns
                    ? (row == place % columns ? 1 : 0)
                    : spec.scale *
                          (2 * random_uniform(seed, stream, static_cast<std::uint64_t>(place)) - 1);
        break;
      }
      case Init::decay:
        value = decay_logit(place, whole);
        break;
    }
    if constexpr (std::is_same_v<T, double>)
      values[i] = value;
    else
      values[i] = T(static_cast<float>(value));
  }
}

}  // namespace

Shape ParamSpec::whole_shape() const {
  return split() ? shape.with(part.dim, part.whole) : shape;
}

std::int64_t ParamSpec::whole_index(std::int64_t i) const {
  if (!split()) return i;
  if (part.dim == 0) return i + part.begin * (shape.size() / std::max<std::int64_t>(shape[0], 1));
  const std::int64_t columns = shape[1];
  return i / columns * part.whole + part.begin + i % columns;
}

ParamId ParamStore::add(ParamSpec spec) {
  check(!values_, "parameter {} added after allocation", spec.name);
  check(by_name_.emplace(spec.name, count()).second, "parameter {} added twice", spec.name);
  sums_gradients_ |= spec.summed;
  specs_.push_back(std::move(spec));
  return ParamId{count() - 1};
}

void ParamStore::assign(ParamId first, ParamGroup group) {
  check(!values_, "parameters put into a group after allocation");
  for (auto spec = specs_.begin() + first.index; spec != specs_.end(); ++spec)
    if (spec->group == ParamGroup::model) spec->group = group;
}

/// What is trained comes first, so that its gradients lie as its values do.
void ParamStore::lay_out() {
  offsets_.resize(specs_.size());
  const auto place = [&](bool trained_ones) {
    for (int i = 0; i < count(); ++i) {
      const ParamSpec& spec = specs_[static_cast<std::size_t>(i)];
      if (trained(ParamId{i}) != trained_ones) continue;
      if (spec.glued)
        check(i > 0 && trained(ParamId{i - 1}) == trained_ones,
              "{} is glued to a parameter, of which only one is trained", spec.name);
      else
        span_size_ = (span_size_ + kAlignment - 1) / kAlignment * kAlignment;
      offsets_[static_cast<std::size_t>(i)] = span_size_;
      span_size_ += spec.shape.size();
    }
  };
  place(true);
  gradient_span_ = span_size_;
  place(false);
  gradient_offsets_.resize(specs_.size());
  first_trained_ = count();
  std::int64_t next = gradient_span_;
  for (int i = count() - 1; i >= 0; --i) {
    if (trained(ParamId{i})) {
      next = offset(ParamId{i});
      first_trained_ = i;
    }
    gradient_offsets_[static_cast<std::size_t>(i)] = next;
  }
}

void ParamStore::allocate(DType dtype) {
  lay_out();
  dtype_ = dtype;
  value_arena_ = Arena(span_size_ * size_of(dtype) + 64);
  values_ = value_arena_.allocate(Shape{span_size_}, dtype);
#ifdef T2R_POISON
  fill(Queue{}, values_, 0);
#endif  // elsewhere memory fresh from the system is zeros, and is first touched with values
  if (trained_part_.kind == TrainedPart::nothing) return;
  const DType wide = accumulate_dtype(dtype);
  grad_arena_ = Arena(gradient_span_ * size_of(wide) + 64);
  grads_ = grad_arena_.allocate(Shape{gradient_span_}, wide);
  fill(Queue{}, grads_, 0);
}

void ParamStore::initialize(std::uint64_t seed) {
  for (const ParamGroup group : {ParamGroup::model, ParamGroup::swapped_attention,
                                 ParamGroup::feature_map, ParamGroup::adapter})
    initialize(seed, group);
}

void ParamStore::initialize(std::uint64_t seed, ParamGroup group) {
  for (int i = 0; i < count(); ++i) {
    const ParamSpec& spec = specs_[static_cast<std::size_t>(i)];
    if (spec.group != group) continue;
    dispatch(dtype_, [&]<class T>() { initialize_values(value(ParamId{i}).as<T>(), spec, seed); });
  }
  touch();
}

ParamId ParamStore::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? ParamId{} : ParamId{it->second};
}

std::int64_t ParamStore::parameter_count() const {
  std::int64_t total = 0;
  for (const ParamSpec& spec : specs_) total += spec.shape.size();
  return total;
}

std::int64_t ParamStore::trained_count() const {
  std::int64_t total = 0;
  for (int i = 0; i < count(); ++i)
    if (trained(ParamId{i})) total += specs_[static_cast<std::size_t>(i)].shape.size();
  return total;
}

Tensor ParamStore::value(ParamId id) const {
  return values_.row_range(offset(id), offset(id) + spec(id).shape.size()).view(spec(id).shape);
}

Tensor ParamStore::grad(ParamId id) const {
  check(has_gradients() && trained(id), "the gradient of {}, which is not trained", spec(id).name);
  return grads_.row_range(offset(id), offset(id) + spec(id).shape.size()).view(spec(id).shape);
}

Tensor ParamStore::glue(const Tensor& span, ParamId first, ParamId last) const {
  std::int64_t rows = 0;
  for (int i = first.index; i <= last.index; ++i) {
    check(i == first.index || specs_[static_cast<std::size_t>(i)].glued,
          "parameter {} is not glued to the one before it",
          specs_[static_cast<std::size_t>(i)].name);
    rows += specs_[static_cast<std::size_t>(i)].shape[0];
  }
  const Shape& shape = spec(first).shape;
  const Tensor flat = span.row_range(offset(first), offset(last) + spec(last).shape.size());
  return shape.rank() == 1 ? flat : flat.view(Shape{rows, shape[1]});
}

Tensor ParamStore::value(ParamId first, ParamId last) const {
  return glue(values_, first, last);
}

Tensor ParamStore::grad(ParamId first, ParamId last) const {
  check(has_gradients() && trained(first), "the gradient of {}, which is not trained",
        spec(first).name);
  return glue(grads_, first, last);
}

Tensor ParamStore::all_values() const {
  return values_;
}

Tensor ParamStore::trained_values() const {
  return values_.row_range(0, gradient_span_);
}

Tensor ParamStore::all_grads() const {
  check(has_gradients(), "gradients of a model without gradients");
  return grads_;
}

}  // namespace t2r
