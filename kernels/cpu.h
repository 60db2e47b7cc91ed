// The check that opens every CPU kernel: all data lies in host memory.
#pragma once

#include "core/base/tensor.h"

namespace t2r {

/// Throws unless the queue and all tensors (empty ones aside) are on the CPU.
template <class... Tensors>
void check_cpu(const char* kernel, const Queue& queue, const Tensors&... tensors) {
  const bool on_cpu =
      queue.device == Device::cpu && ((!tensors || tensors.device == Device::cpu) && ...);
  check(on_cpu, "{} was given a tensor or queue of another device; this is its CPU version",
        kernel);
}

}  // namespace t2r
