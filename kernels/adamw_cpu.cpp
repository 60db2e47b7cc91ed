// AdamW on the CPU: one pass over memory, which is what bounds it (28 bytes a parameter in fp32).
#include <algorithm>
#include <cmath>

#include "kernels/adamw.h"
#include "kernels/cpu.h"
#include "kernels/pointwise.h"

namespace t2r {
namespace {

template <class T, class A>
void update(T* values, A* master, const A* grads, A* m, A* v, std::int64_t count,
            const AdamWStep& step) {
  // Scalars in double, rounded once. Bias corrections as in Kingma and Ba 2015, section 2.
  const double correction1 = 1 - std::pow(step.beta1, static_cast<double>(step.step));
  const double correction2 = 1 - std::pow(step.beta2, static_cast<double>(step.step));
  const A scale = static_cast<A>(step.grad_scale);
  const A beta1 = static_cast<A>(step.beta1), rest1 = static_cast<A>(1 - step.beta1);
  const A beta2 = static_cast<A>(step.beta2), rest2 = static_cast<A>(1 - step.beta2);
  const A rate = static_cast<A>(step.learning_rate / correction1);
  const A inverse_root = static_cast<A>(1 / std::sqrt(correction2));
  const A eps = static_cast<A>(step.eps);
  const A keep = static_cast<A>(1 - step.learning_rate * step.weight_decay);
#pragma omp parallel for simd schedule(static) if (count > kParallelElements)
  for (std::int64_t i = 0; i < count; ++i) {
    const A g = grads[i] * scale;
    const A m_new = beta1 * m[i] + rest1 * g;
    const A v_new = beta2 * v[i] + rest2 * g * g;
    const A value = keep * master[i] - rate * m_new / (std::sqrt(v_new) * inverse_root + eps);
    m[i] = m_new;
    v[i] = v_new;
    master[i] = value;
    store(values[i], value);
  }
}

}  // namespace

void adamw(Queue queue, Tensor values, Tensor master, Tensor grads, Tensor m, Tensor v,
           const AdamWStep& step) {
  check_cpu("adamw", queue, values, master, grads, m, v);
  for (const Tensor* span : {&values, &master, &grads, &m, &v})
    check(span->contiguous() && span->size() == values.size(),
          "adamw needs contiguous spans of one length: {} and {}", span->shape.text(),
          values.shape.text());
  check(step.step >= 1, "adamw counts steps from 1, not {}", step.step);
  dispatch(values.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    update(values.as<T>(), master.as<A>(), grads.as<A>(), m.as<A>(), v.as<A>(), values.size(),
           step);
  });
}

}  // namespace t2r
