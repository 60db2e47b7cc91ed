// Checkpoints of a training run: RUN/checkpoints/step_00000420/ holds the parameters in master
// precision, both Adam moments and state.json. A folder of that name is complete: it was written
// under another name, synced, then renamed.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/model/params.h"
#include "core/train/optimizer.h"
#include "dist/comm.h"

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

  // Progress: sums over all earlier parts of the run.
  std::int64_t step = 0;    // updates done
  std::int64_t tokens = 0;  // that were predicted
  double flops = 0;
  double wall_seconds = 0;  // of everything, evaluation and checkpoints included
  double rank_seconds = 0;  // of updates only, times the number of ranks
  double compute_seconds = 0, exposed_communication_seconds = 0, evaluation_seconds = 0;
  std::optional<double> energy_joules;
};

/// The arrays of a checkpoint: spans that lie as the arena of a whole model's parameters does.
struct CheckpointSpans {
  Tensor values, first_moment, second_moment;  // values in master precision
};

/// Writes the checkpoint of state.step, moves RUN/latest to it, and removes all but the newest
/// `keep` (at least 1). One process calls this. When it fails (a full disk) it throws one sentence;
/// nothing partial is left and older checkpoints stay.
void save_checkpoint(const std::string& run_folder, const TrainState& state,
                     const ParamStore& params, const CheckpointSpans& spans, std::int64_t keep);

/// Steps of the complete checkpoints, ascending. Does not open them.
std::vector<std::int64_t> list_checkpoints(const std::string& run_folder);

/// The folder of a checkpoint, "RUN/checkpoints/step_00000420".
std::string checkpoint_folder(const std::string& run_folder, std::int64_t step);

/// Loads the newest checkpoint whose every array has the XXH3 that state.json names; one that is
/// damaged is passed over with a warning. Nothing when the run has no checkpoint. Throws one
/// sentence when the checkpoint belongs to another model, dataset or configuration than `expected`,
/// or when all are damaged. One process calls this; the arrays go to `spans`.
std::optional<TrainState> load_checkpoint(const std::string& run_folder, const TrainState& expected,
                                          const ParamStore& params, const CheckpointSpans& spans);

/// Adds the parameters of a checkpoint, in master precision, to `sums`, which lies as the arena of
/// `params` does. Throws one sentence when it is damaged or of another model than
/// `model_fingerprint` names.
void add_checkpoint_values(const std::string& checkpoint_folder,
                           const std::string& model_fingerprint, const ParamStore& params,
                           std::vector<double>& sums);

/// Moves checkpoints of an earlier run out of the way: RUN/checkpoints becomes
/// RUN/checkpoints.old-1 (or -2, ...).
void set_checkpoints_aside(const std::string& run_folder);

/// Rank 0's progress becomes every rank's. Collective.
void broadcast_progress(Comm& comm, TrainState& state);

/// 16 hexadecimal digits that name a model configuration (dropout rates left out).
std::string fingerprint(const ModelConfig& config);
/// The same for the values of parameters, gaps left out.
std::string fingerprint(const ParamStore& params);

/// Tests set this: called with a description before each step of a save that changes the disk.
using WritePointHook = std::function<void(const char*)>;
void set_write_point_hook(WritePointHook hook);

}  // namespace t2r
