// The mean of several checkpoints' parameters (Vaswani et al. 2017, section 6.1): usually a little
// better than the last one alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/model/transformer.h"

namespace t2r {

/// The newest `last` checkpoints of a run, ascending. A usage error when it has fewer.
std::vector<std::int64_t> newest_checkpoints(const std::string& run_folder, std::int64_t last);

/// The run's model (RUN/model says what it is, so the run must have ended) with the mean of the
/// parameters of its checkpoints `steps`, summed in double. Throws when one is damaged or of
/// another model.
std::unique_ptr<Transformer> average_checkpoints(const std::string& run_folder,
                                                 const std::vector<std::int64_t>& steps,
                                                 DType dtype);

}  // namespace t2r
