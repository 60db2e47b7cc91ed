#include "core/model/distillation.h"

#include <utility>

namespace t2r {
namespace {

/// Room for a pass of the teacher: reserved, used only as touched.
constexpr std::int64_t kWorkingMemory = std::int64_t{16} << 30;

}  // namespace

Teacher::Teacher(std::unique_ptr<Transformer> model, double share)
    : model_(std::move(model)),
      share_(share),
      activations_(kWorkingMemory),
      scratch_(kWorkingMemory) {
  check_usage(share > 0 && share <= 1,
              "a teacher's share of {} in the loss: it must be above 0 and at most 1", share);
}

}  // namespace t2r
