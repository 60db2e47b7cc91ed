// Checkpoints of a training run: RUN/checkpoints/step_00000420/ holds the parameters that are
// trained in master precision, both Adam moments and the progress. A folder of that name is
// complete: it was written under another name, synced, then renamed. checkpoint_files.h has the
// format, checkpoint_writer.h and checkpoint_reader.h write and read it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/model/params.h"
#include "core/model/tensor_parallel.h"
#include "core/model/trained_part.h"

namespace t2r {

/// What has to agree for a checkpoint to belong to a run, and how far the run is.
struct TrainState {
  // Identity: compared on load.
  std::string model_fingerprint;  // of the configuration
  std::string start_fingerprint;  // of the weights that training started from; may be empty
  std::string dataset_fingerprint;
  std::string precision;
  std::uint64_t seed = 0;
  std::int64_t sequence_length = 0;
  std::int64_t global_batch = 0;  // sequences an update
  std::string packing;
  std::string trained = "all";  // the part of the parameters, in words
  std::string objective;        // what is minimised where it is not the task's loss alone

  // Progress: sums over all earlier parts of the run.
  std::int64_t step = 0;    // updates done
  std::int64_t tokens = 0;  // that were predicted
  double flops = 0;
  double wall_seconds = 0;  // of everything, evaluation and checkpoints included
  double rank_seconds = 0;  // of updates only, times the number of ranks
  double compute_seconds = 0, exposed_communication_seconds = 0, evaluation_seconds = 0;
  std::optional<double> energy_joules;
};

/// Steps of the complete checkpoints, ascending. Does not open them.
std::vector<std::int64_t> list_checkpoints(const std::string& run_folder);

/// The folder of a checkpoint, "RUN/checkpoints/step_00000420".
std::string checkpoint_folder(const std::string& run_folder, std::int64_t step);

/// Moves checkpoints of an earlier run out of the way: RUN/checkpoints becomes
/// RUN/checkpoints.old-1 (or -2, ...).
void set_checkpoints_aside(const std::string& run_folder);

/// 16 hexadecimal digits that name a model configuration (dropout rates left out).
std::string fingerprint(const ModelConfig& config);
/// The same for the values of whole parameters, wherever their parts lie. Collective over the
/// tensor-parallel ranks; on none of them is there more than one whole parameter at a time.
std::string fingerprint(const ParamStore& params, const TensorParallel& parallel = {});

/// Tests set this: called with a description before each step of a save that changes the disk, from
/// the threads that write. Null: nothing is called.
using WritePointHook = std::function<void(const char*)>;
void set_write_point_hook(WritePointHook hook);

}  // namespace t2r
