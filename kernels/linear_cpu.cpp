// Products with weights on the CPU. fp32 and bf16 go to oneDNN, fp64 to our own loop.
//
// Which of oneDNN's ways is used is a function of shape and type alone, so that results do not
// depend on what ran before. Measured on 2 cores with AVX-512:
//   forward, fp32      up to 256 rows (decoding): packed weights, 1.1-7 times as fast as others.
//                      More rows: plain weights; packing would gain 3 % and double their memory.
//   forward, bf16      packed weights: 2-10 % faster, in decoding 1.3-4 times.
//   input, fp32        dnnl_sgemm, as fast as anything and free of shape-bound set-up.
//   input, bf16        packed weights (of the other orientation), as forward.
//   weight             fp32 dnnl_sgemm with beta = 1, bf16 a product with a sum into fp32.
#include <omp.h>

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/arena.h"
#include "kernels/cpu.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/pointwise.h"
#include "kernels/product_f64.h"
#include "kernels/scratch.h"

namespace t2r {
namespace {

using dnnl::memory;

constexpr std::int64_t kPackedRowsF32 = 256;
constexpr std::size_t kCacheEntries = 512;

/// An operand as it lies in memory, and whether its transpose is meant.
struct Operand {
  Tensor tensor;
  bool transposed = false;

  std::int64_t rows() const { return transposed ? tensor.shape[1] : tensor.shape[0]; }
  std::int64_t columns() const { return transposed ? tensor.shape[0] : tensor.shape[1]; }
  std::int64_t down() const { return transposed ? 1 : tensor.row_stride; }    // stride
  std::int64_t across() const { return transposed ? tensor.row_stride : 1; }  // stride
};

/// What a oneDNN primitive is bound to: C (rows, columns) [+]= A (rows, inner) B (inner, columns).
struct Signature {
  std::int64_t rows, columns, inner, a_down, a_across, b_down, b_across, c_down;
  DType in, out, bias;
  bool has_bias, packed, sum;
  int threads;

  auto operator<=>(const Signature&) const = default;
};

/// A primitive and its arguments, of which the addresses change from call to call.
struct Prepared {
  dnnl::matmul primitive;
  memory::desc b_layout;
  std::unordered_map<int, memory> arguments;
  std::int64_t scratch_bytes = 0;
};

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& this_threads_stream() {
  thread_local dnnl::stream stream(cpu_engine());
  return stream;
}

memory::data_type dnnl_type(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc describe(std::int64_t rows, std::int64_t columns, DType dtype, std::int64_t down,
                      std::int64_t across) {
  return memory::desc({rows, columns}, dnnl_type(dtype), memory::dims{down, across});
}

memory::desc describe(const Operand& x) {
  return describe(x.rows(), x.columns(), x.tensor.dtype, x.down(), x.across());
}

/// Runs f; an error of oneDNN becomes one of ours.
template <class F>
decltype(auto) with_errors(const char* what, F&& f) {
  try {
    return f();
  } catch (const dnnl::error& e) {
    fail("oneDNN could not {}: {} (status {})", what, e.what(), static_cast<int>(e.status));
  }
}

/// False on processors for which oneDNN has no bf16 product (x86 without AVX-512).
bool has_bf16() {
  static const bool has = [] {
    const memory::desc square = describe(64, 64, DType::bf16, 64, 1);
    const dnnl::matmul::primitive_desc found(dnnl::matmul::desc(square, square, square),
                                             dnnl::primitive_attr(), cpu_engine(), true);
    return found.get(true) != nullptr;
  }();
  return has;
}

/// The layout in which products of many sizes want B (inner, columns).
memory::desc packed_layout(const Operand& b) {
  const std::int64_t rows = 256;  // oneDNN 2 chooses the same for any number of rows
  const DType dtype = b.tensor.dtype;
  return dnnl::matmul::primitive_desc(
             dnnl::matmul::desc(
                 describe(rows, b.rows(), dtype, b.rows(), 1),
                 memory::desc({b.rows(), b.columns()}, dnnl_type(dtype), memory::format_tag::any),
                 describe(rows, b.columns(), dtype, b.columns(), 1)),
             cpu_engine())
      .weights_desc();
}

/// The primitive for a signature, from this thread's cache (each rank may be a thread of its own).
Prepared& prepare(const Signature& s, const memory::desc& b_layout) {
  thread_local std::map<Signature, Prepared> cache;
  auto found = cache.find(s);
  if (found != cache.end() && found->second.b_layout == b_layout) return found->second;
  if (cache.size() >= kCacheEntries) cache.clear();  // ragged batches; remaking costs 0.2 ms each
  const memory::desc a = describe(s.rows, s.inner, s.in, s.a_down, s.a_across);
  const memory::desc c = describe(s.rows, s.columns, s.out, s.c_down, 1);
  const memory::desc bias = describe(1, s.columns, s.bias, s.columns, 1);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (s.sum) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::desc description =
      s.has_bias ? dnnl::matmul::desc(a, b_layout, bias, c) : dnnl::matmul::desc(a, b_layout, c);
  const dnnl::matmul::primitive_desc chosen(description, attributes, cpu_engine());
  Prepared p{dnnl::matmul(chosen), b_layout, {}, 0};
  p.scratch_bytes = static_cast<std::int64_t>(chosen.scratchpad_desc().get_size());
  p.arguments = {{DNNL_ARG_SRC, memory(a, cpu_engine(), nullptr)},
                 {DNNL_ARG_WEIGHTS, memory(b_layout, cpu_engine(), nullptr)},
                 {DNNL_ARG_DST, memory(c, cpu_engine(), nullptr)},
                 {DNNL_ARG_SCRATCHPAD, memory(chosen.scratchpad_desc(), cpu_engine(), nullptr)}};
  if (s.has_bias) p.arguments.emplace(DNNL_ARG_BIAS, memory(bias, cpu_engine(), nullptr));
  return cache.insert_or_assign(s, std::move(p)).first->second;
}

/// Memory for a packed copy. Small copies share pages of the heap, large ones get huge pages.
class PackedStorage {
 public:
  void* get(std::int64_t bytes) {
    constexpr std::int64_t kLarge = 1 << 20, kAlignment = 64;
    if (bytes >= kLarge) return arena_.emplace(bytes).allocate_array<std::byte>(bytes);
    small_.resize(static_cast<std::size_t>(bytes + kAlignment));
    const auto address = reinterpret_cast<std::uintptr_t>(small_.data());
    return small_.data() + (kAlignment - address % kAlignment) % kAlignment;
  }

 private:
  std::optional<Arena> arena_;
  std::vector<std::byte> small_;
};

}  // namespace

/// The copies of a weight, one for each of the two products it is in. They belong to one rank: two
/// threads must not use one LinearWeight at the same time.
struct LinearWeight::Packed {
  struct Copy {
    PackedStorage storage;
    memory source, target;
    dnnl::reorder reorder;
    std::uint64_t version = 0;
  };
  std::optional<Copy> forward, input;
};

namespace {

/// B as oneDNN wants it, remade when the weights have changed.
memory& packed_operand(const LinearWeight& weight, const Operand& b) {
  if (!weight.packed()) weight.packed() = std::make_shared<LinearWeight::Packed>();
  auto& copy = b.transposed ? weight.packed()->forward : weight.packed()->input;
  if (copy && copy->version == weight.version()) return copy->target;
  if (!copy) {
    LinearWeight::Packed::Copy made;
    const memory::desc layout = packed_layout(b), plain = describe(b);
    made.source = memory(plain, cpu_engine(), b.tensor.data);
    if (layout == plain) {  // nothing to gain on this processor: no copy
      made.target = made.source;
    } else {
      void* place = made.storage.get(static_cast<std::int64_t>(layout.get_size()));
      made.target = memory(layout, cpu_engine(), place);
      made.reorder = dnnl::reorder(made.source, made.target);
    }
    copy = std::move(made);
  }
  if (copy->reorder) {
    copy->reorder.execute(this_threads_stream(), copy->source, copy->target);
    this_threads_stream().wait();
  }
  copy->version = weight.version();
  return copy->target;
}

/// C [+]= A B + bias by a oneDNN primitive; with `weight`, whose matrix B is, from a packed copy.
void primitive_product(const Tensor& c, const Operand& a, const Operand& b, const Tensor& bias,
                       bool sum, const LinearWeight* weight) {
  with_errors("multiply matrices", [&] {
    const Signature signature{a.rows(),          b.columns(),  a.columns(),
                              a.down(),          a.across(),   b.down(),
                              b.across(),        c.row_stride, a.tensor.dtype,
                              c.dtype,           bias.dtype,   static_cast<bool>(bias),
                              weight != nullptr, sum,          omp_get_max_threads()};
    memory* packed = weight ? &packed_operand(*weight, b) : nullptr;
    Prepared& p = prepare(signature, packed ? packed->get_desc() : describe(b));
    ScratchScope scratch;
    p.arguments.at(DNNL_ARG_SRC).set_data_handle(a.tensor.data);
    if (packed)
      p.arguments.at(DNNL_ARG_WEIGHTS) = *packed;
    else
      p.arguments.at(DNNL_ARG_WEIGHTS).set_data_handle(b.tensor.data);
    p.arguments.at(DNNL_ARG_DST).set_data_handle(c.data);
    if (bias) p.arguments.at(DNNL_ARG_BIAS).set_data_handle(bias.data);
    p.arguments.at(DNNL_ARG_SCRATCHPAD).set_data_handle(scratch.array<std::byte>(p.scratch_bytes));
    p.primitive.execute(this_threads_stream(), p.arguments);
    this_threads_stream().wait();
  });
}

/// C [+]= A B in fp32.
void sgemm_product(const Tensor& c, const Operand& a, const Operand& b, bool sum) {
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', a.rows(), b.columns(),
                 a.columns(), 1.0f, a.tensor.as<float>(), a.tensor.row_stride, b.tensor.as<float>(),
                 b.tensor.row_stride, sum ? 1.0f : 0.0f, c.as<float>(), c.row_stride);
  check(status == dnnl_success, "dnnl_sgemm failed with the status {} for {} x {} x {}",
        static_cast<int>(status), a.rows(), b.columns(), a.columns());
}

/// C [+]= A B + bias for bf16 operands on a processor without bf16 products: converted to fp32.
void converted_product(const Tensor& c, const Operand& a, const Operand& b, const Tensor& bias,
                       bool sum) {
  const Queue queue;
  ScratchScope scratch;
  const auto widened = [&](const Tensor& x) {
    const Tensor wide(scratch.array<float>(x.size()), x.shape, DType::f32);
    copy(queue, wide, x);
    return wide;
  };
  const bool direct = c.dtype == DType::f32;
  const Tensor result = direct ? c : Tensor(scratch.array<float>(c.size()), c.shape, DType::f32);
  sgemm_product(result, {widened(a.tensor), a.transposed}, {widened(b.tensor), b.transposed},
                direct && sum);
  if (bias) {
    const Tensor row = widened(bias.view({1, bias.size()}));
    for (std::int64_t i = 0; i < c.rows(); ++i) add_to(queue, result.row_range(i, i + 1), row);
  }
  if (direct) return;
  if (sum)
    add_to(queue, c, result);
  else
    copy(queue, c, result);
}

/// C [+]= A B + bias in double. Rows of B are made contiguous first.
void double_product(const Tensor& c, const Operand& a, const Operand& b, const Tensor& bias,
                    bool sum) {
  ScratchScope scratch;
  const double* from = b.tensor.as<double>();
  std::int64_t b_row = b.tensor.row_stride;
  if (b.transposed) {
    double* turned = scratch.array<double>(b.rows() * b.columns());
    for (std::int64_t k = 0; k < b.rows(); ++k)
      for (std::int64_t j = 0; j < b.columns(); ++j)
        turned[k * b.columns() + j] = from[j * b_row + k];
    from = turned;
    b_row = b.columns();
  }
  product_f64(c.as<double>(), c.row_stride, a.tensor.as<double>(), a.down(), a.across(), from,
              b_row, bias ? bias.as<double>() : nullptr, sum, a.rows(), b.columns(), a.columns());
}

/// out (columns) += sums over the rows of x. Rows in blocks, so that rounding does not grow with
/// their number; a strip of columns a thread, so that threads do not change the order.
template <class T, class A>
void add_column_sums(A* out, const T* x, std::int64_t rows, std::int64_t columns,
                     std::int64_t stride) {
  constexpr std::int64_t kStrip = 64, kBlock = 64;
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements)
  for (std::int64_t strip = 0; strip < columns; strip += kStrip) {
    const std::int64_t width = std::min(kStrip, columns - strip);
    A total[kStrip] = {};
    for (std::int64_t block = 0; block < rows; block += kBlock) {
      A sum[kStrip] = {};
      for (std::int64_t row = block; row < std::min(block + kBlock, rows); ++row) {
        const T* from = x + row * stride + strip;
#pragma omp simd
        for (std::int64_t j = 0; j < width; ++j) sum[j] += A(from[j]);
      }
      for (std::int64_t j = 0; j < width; ++j) total[j] += sum[j];
    }
    for (std::int64_t j = 0; j < width; ++j) out[strip + j] += total[j];
  }
}

void check_matrix(const Tensor& x, std::int64_t rows, std::int64_t columns, DType dtype,
                  const char* what) {
  check(x.shape == Shape({rows, columns}) && x.dtype == dtype,
        "linear: {} is {} {}, expected {} ({}, {})", what, name_of(x.dtype), x.shape.text(),
        name_of(dtype), rows, columns);
}

}  // namespace

LinearWeight::LinearWeight(Tensor weight, const std::uint64_t* version)
    : weight_(weight), version_(version) {
  check(weight.shape.rank() == 2, "a linear weight is a matrix, not of the shape {}",
        weight.shape.text());
}

void linear_forward(Queue queue, Tensor y, Tensor x, const LinearWeight& weight, Tensor bias) {
  const Tensor& w = weight.tensor();
  check_cpu("linear_forward", queue, y, x, w, bias);
  check_matrix(x, x.rows(), weight.in(), w.dtype, "the input");
  check_matrix(y, x.rows(), weight.out(), y.dtype == w.dtype ? w.dtype : accumulate_dtype(w.dtype),
               "the output");
  if (bias) check_shape(bias, Shape{weight.out()}, "the bias of a linear layer");
  if (y.size() == 0) return;
  const Operand a{x}, b{w, true};
  if (w.dtype == DType::f64)
    double_product(y, a, b, bias, false);
  else if (w.dtype == DType::bf16 && !has_bf16())
    converted_product(y, a, b, bias, false);
  else
    primitive_product(y, a, b, bias, false,
                      w.dtype == DType::bf16 || x.rows() <= kPackedRowsF32 ? &weight : nullptr);
}

void linear_backward_input(Queue queue, Tensor dx, Tensor dy, const LinearWeight& weight,
                           bool accumulate) {
  const Tensor& w = weight.tensor();
  check_cpu("linear_backward_input", queue, dx, dy, w);
  check_matrix(dy, dy.rows(), weight.out(), w.dtype, "the output's gradient");
  check_matrix(dx, dy.rows(), weight.in(), w.dtype, "the input's gradient");
  if (dx.size() == 0) return;
  const Operand a{dy}, b{w};
  if (w.dtype == DType::f64)
    double_product(dx, a, b, {}, accumulate);
  else if (w.dtype == DType::f32)
    sgemm_product(dx, a, b, accumulate);
  else if (has_bf16())
    primitive_product(dx, a, b, {}, accumulate, &weight);
  else
    converted_product(dx, a, b, {}, accumulate);
}

void linear_backward_weight(Queue queue, Tensor dweight, Tensor dbias, Tensor dy, Tensor x) {
  check_cpu("linear_backward_weight", queue, dweight, dbias, dy, x);
  const DType wide = accumulate_dtype(x.dtype);
  check_matrix(x, dy.rows(), x.columns_count(), dy.dtype, "the input");
  check_matrix(dweight, dy.columns_count(), x.columns_count(), wide, "the weight's gradient");
  if (dbias) check_shape(dbias, Shape{dy.columns_count()}, "the bias's gradient");
  if (dy.size() == 0) return;
  const Operand a{dy, true}, b{x};
  if (x.dtype == DType::f64)
    double_product(dweight, a, b, {}, true);
  else if (x.dtype == DType::f32)
    sgemm_product(dweight, a, b, true);
  else if (has_bf16())
    primitive_product(dweight, a, b, {}, true, nullptr);
  else
    converted_product(dweight, a, b, {}, true);
  if (!dbias) return;
  dispatch(dy.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    add_column_sums(dbias.as<A>(), dy.as<T>(), dy.rows(), dy.columns_count(), dy.row_stride);
  });
}

}  // namespace t2r
