// The feed-forward network's pointwise functions on the CPU.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels/activation.h"
#include "kernels/cpu.h"
#include "kernels/pointwise.h"
#include "kernels/vector_math.h"

namespace t2r {
namespace {

/// Phi(x) = erfc(-x / sqrt(2)) / 2, the normal distribution. Float: relative error below 1e-6 in
/// both tails (Press et al., Numerical Recipes, 6.2: erfcc).
template <class A>
inline A normal_distribution(A x) {
  if constexpr (std::is_same_v<A, double>) {
    return 0.5 * std::erfc(-x * 0.70710678118654752440);
  } else {
    const float z = std::abs(x) * 0.70710678118654752440f;
    const float t = 1.0f / (1.0f + 0.5f * z);
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    const float tail = 0.5f * t * fast_exp(p * t - 1.26551223f - z * z);
    return x < 0 ? tail : 1.0f - tail;
  }
}

// Each function has value(x) and slope(x), its derivative.

/// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
/// (Hendrycks and Gimpel 2016, section 2).
struct GeluTanh {
  template <class A>
  static A sigmoid_of(A x) {
    return fast_sigmoid(A(2 * 0.79788456080286535588) * x * (1 + A(0.044715) * x * x));
  }
  /// Beyond 64 the sigmoid is exactly 0 or 1; clamping keeps the cube finite.
  template <class A>
  static A clamp(A x) {
    const A low = x < A(-64) ? A(-64) : x;
    return low > A(64) ? A(64) : low;
  }
  template <class A>
  static A value(A x) {
    return x * sigmoid_of(clamp(x));
  }
  template <class A>
  static A slope(A x) {
    const A c = clamp(x);
    const A s = sigmoid_of(c);
    const A inner = A(2 * 0.79788456080286535588) * (1 + A(3 * 0.044715) * c * c);
    return s + c * s * (1 - s) * inner;
  }
};

/// x Phi(x) (Hendrycks and Gimpel 2016).
struct GeluErf {
  template <class A>
  static A value(A x) {
    return x * normal_distribution(x);
  }
  template <class A>
  static A slope(A x) {
    const A c = GeluTanh::clamp(x);  // the density is 0 beyond; keeps x * 0 finite
    return normal_distribution(x) + c * A(0.39894228040143267794) * fast_exp(A(-0.5) * c * c);
  }
};

/// max(x, 0); NaN stays NaN, so that a broken model is noticed.
struct Relu {
  template <class A>
  static A value(A x) {
    return x < 0 ? A(0) : x;
  }
  template <class A>
  static A slope(A x) {
    return x > 0 ? A(1) : A(0);
  }
};

/// x sigmoid(x), also called swish (Ramachandran et al. 2017).
struct Silu {
  template <class A>
  static A value(A x) {
    return x * fast_sigmoid(x);
  }
  template <class A>
  static A slope(A x) {
    const A c = GeluTanh::clamp(x);  // beyond, the slope is 0 or 1; keeps x * 0 finite
    const A s = fast_sigmoid(c);
    return s + c * s * (1 - s);
  }
};

void check_same(const Tensor& a, const Tensor& x, const char* what) {
  check_shape(a, x.shape, what);
  check(a.dtype == x.dtype, "{} is {} and its input {}", what, name_of(a.dtype), name_of(x.dtype));
}

/// Calls f.template operator()<Function>().
template <class F>
void dispatch_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::gelu_tanh:
      return f.template operator()<GeluTanh>();
    case Activation::gelu_erf:
      return f.template operator()<GeluErf>();
    case Activation::relu:
      return f.template operator()<Relu>();
    case Activation::silu:
      return f.template operator()<Silu>();
    case Activation::swiglu:
      break;
  }
  fail("SwiGLU takes two inputs: call swiglu_forward and swiglu_backward");
}

void check_swiglu(const Tensor& y, const Tensor& gate_up) {
  check(y.shape.rank() == 2, "SwiGLU's output has the shape {}: expected (rows, n)",
        y.shape.text());
  check_shape(gate_up, {y.shape[0], 2 * y.shape[1]}, "SwiGLU's input");
  check(y.dtype == gate_up.dtype, "SwiGLU's output is {} and its input {}", name_of(y.dtype),
        name_of(gate_up.dtype));
}

}  // namespace

void activation_forward(Queue queue, Activation kind, Tensor y, Tensor x) {
  check_cpu("activation_forward", queue, y, x);
  check_same(y, x, "the activation's output");
  dispatch_activation(kind, [&]<class Function>() {
    dispatch(x.dtype, [&]<class T>() {
      T* const y0 = y.as<T>();
      const T* const x0 = x.as<T>();
      for_each_piece_of(x, x.contiguous() && y.contiguous(),
                        [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
                          T* const to = y0 + row * y.row_stride;
                          const T* const from = x0 + row * x.row_stride;
#pragma omp simd
                          for (std::int64_t i = begin; i < end; ++i)
                            store(to[i], Function::value(static_cast<accumulate_t<T>>(from[i])));
                        });
    });
  });
}

void activation_backward(Queue queue, Activation kind, Tensor dx, Tensor dy, Tensor x) {
  check_cpu("activation_backward", queue, dx, dy, x);
  check_same(dx, x, "the activation's input gradient");
  check_same(dy, x, "the activation's output gradient");
  const bool contiguous = x.contiguous() && dx.contiguous() && dy.contiguous();
  dispatch_activation(kind, [&]<class Function>() {
    dispatch(x.dtype, [&]<class T>() {
      using A = accumulate_t<T>;
      T* const dx0 = dx.as<T>();
      const T* const dy0 = dy.as<T>();
      const T* const x0 = x.as<T>();
      for_each_piece_of(x, contiguous, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
        T* const to = dx0 + row * dx.row_stride;
        const T* const gradient = dy0 + row * dy.row_stride;
        const T* const at = x0 + row * x.row_stride;
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i)
          store(to[i], static_cast<A>(gradient[i]) * Function::slope(static_cast<A>(at[i])));
      });
    });
  });
}

void swiglu_forward(Queue queue, Tensor y, Tensor gate_up) {
  check_cpu("swiglu_forward", queue, y, gate_up);
  check_swiglu(y, gate_up);
  const std::int64_t n = y.shape[1];
  dispatch(y.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    T* const y0 = y.as<T>();
    const T* const in0 = gate_up.as<T>();
    for_each_piece(y.shape[0], n, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
      T* const to = y0 + row * y.row_stride;
      const T* const gate = in0 + row * gate_up.row_stride;
      const T* const up = gate + n;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const A g = static_cast<A>(gate[i]);
        store(to[i], g * fast_sigmoid(g) * static_cast<A>(up[i]));
      }
    });
  });
}

void swiglu_backward(Queue queue, Tensor dgate_up, Tensor dy, Tensor gate_up) {
  check_cpu("swiglu_backward", queue, dgate_up, dy, gate_up);
  check_swiglu(dy, gate_up);
  check_same(dgate_up, gate_up, "SwiGLU's input gradient");
  const std::int64_t n = dy.shape[1];
  dispatch(dy.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    T* const out0 = dgate_up.as<T>();
    const T* const dy0 = dy.as<T>();
    const T* const in0 = gate_up.as<T>();
    for_each_piece(dy.shape[0], n, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
      T* const dgate = out0 + row * dgate_up.row_stride;
      T* const dup = dgate + n;
      const T* const gradient = dy0 + row * dy.row_stride;
      const T* const gate = in0 + row * gate_up.row_stride;
      const T* const up = gate + n;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const A d = static_cast<A>(gradient[i]), g = static_cast<A>(gate[i]);
        const A u = static_cast<A>(up[i]);
        const A s = fast_sigmoid(g);
        store(dgate[i], d * u * (s + g * s * (1 - s)));
        store(dup[i], d * g * s);
      }
    });
  });
}

}  // namespace t2r
