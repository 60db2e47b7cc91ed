// The training loop: the same updates for any number of ranks, checkpoints, evaluation, metrics.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/base/arena.h"
#include "core/model/distillation.h"
#include "core/model/transformer.h"
#include "core/train/checkpoint_writer.h"
#include "core/train/evaluate.h"
#include "core/train/machine.h"
#include "core/train/optimizer.h"
#include "core/train/schedule.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "dist/mesh.h"

namespace t2r {

enum class Resume : std::uint8_t { automatic, never };

/// What updates minimise: the loss of the task, or the difference of swapped layers from softmax
/// attention (attention transfer, which comes before the task).
enum class Stage : std::uint8_t { task, transfer };

/// "task" or "transfer"; anything else is a usage error.
Stage parse_stage(const std::string& name);
const char* name_of(Stage stage);

/// "auto" or "never"; anything else is a usage error.
Resume parse_resume(const std::string& name);
/// True for "async", false for "sync"; anything else is a usage error.
bool parse_checkpoint_writing(const std::string& name);

struct TrainOptions {
  std::string run_folder;  // empty: nothing is written (tests)

  // The work of an update. Results do not depend on micro_batch.
  std::int64_t sequence_length = 256;
  Packing packing = Packing::documents;
  std::int64_t global_batch = 32;  // sequences an update, over all ranks
  std::int64_t micro_batch = 8;    // sequences a forward pass
  // Instead of the four above where the data are sentence pairs: target tokens an update, and
  // tokens of both sides a forward pass.
  std::int64_t batch_tokens = 4096, micro_batch_tokens = 8192;
  std::int64_t steps = 1000;  // updates in all
  std::uint64_t seed = 1;
  Stage stage = Stage::task;

  Schedule schedule;  // total_steps 0: `steps`
  AdamWOptions adamw;
  double clip_norm = 1.0;  // 0: no clipping
  double label_smoothing = 0;

  std::int64_t log_every = 10;        // health figures (of the first rank's tokens), progress
  std::int64_t evaluate_every = 0;    // updates between evaluations; 0: only at the end
  std::int64_t checkpoint_every = 0;  // updates between checkpoints; 0: only at the end
  std::int64_t keep_checkpoints = 2;
  // Updates between comparisons of the ranks' parameters; 0: only at checkpoints.
  std::int64_t replica_check_every = 100;
  bool asynchronous_checkpoints = true;  // training goes on while they are written
  Resume resume = Resume::automatic;
  std::int64_t bucket_bytes = 2 << 20;  // of the gradient reducer
  bool sequence_parallel = false;       // tensor-parallel ranks share out norms and dropout too
  bool recompute = false;               // activations of blocks, in backward
  bool optimizer_sharding = false;      // replicas share out master weights and moments
  bool overlap = true;                  // gradients are summed while backward goes on
  bool measure_peak = true;             // time matrix products first, for the utilisation

  // For the summary and the model that is written.
  std::string start = "scratch";  // "scratch", "converted" or "pretrained"
  std::string base_folder;        // whose tokenizer (and unknown config keys) RUN/model/ gets
  std::map<std::string, std::string> provenance;
  std::string version;  // of the program, with its commit
  int threads = 1;      // a rank, for the summary
};

/// The text, or the sentence pairs, that a run works on.
struct TrainData {
  Corpus train;
  std::optional<Corpus> validation;
  std::int64_t validation_words = 0;
  std::int64_t vocab_size = 0;
  std::int64_t source_vocab_size = 0;  // sentence pairs only
  std::string fingerprint;
  std::string folder;      // whose tokenizer is copied when base_folder is empty
  bool source_eos = true;  // sentence pairs only: sources end with eos

  static TrainData from(const Dataset& dataset, const std::string& train_split = "train",
                        const std::string& validation_split = "valid");
};

/// Bytes that a rank keeps; of the rank with most.
struct TrainMemory {
  std::int64_t parameters = 0, gradients = 0;
  std::int64_t optimizer = 0;    // moments, and master weights of bf16 models
  std::int64_t activations = 0;  // the most of any micro-step, scratch included
};

struct TrainSummary {
  bool stopped = false;   // by a signal, state saved: exit with kExitSavedStopped
  TrainState state;       // step, tokens, FLOPs, seconds over all parts of the run
  double train_loss = 0;  // of the last update
  std::optional<EvaluationResult> validation;  // at the end
  TrainMemory memory;
  std::int64_t trained_parameters = 0;  // of a rank
  std::int64_t peak_memory_bytes = 0;   // of the rank that used most
  double peak_flops_per_second = 0;     // measured, all ranks; 0: not measured
  double checkpoint_stall_seconds = 0;  // that updates waited for checkpoints, since the start
};

/// One update, as metrics.jsonl has it.
struct StepFigures {
  std::int64_t step = 0;  // from 1
  // Nats a token, label smoothing and teacher left out. In attention transfer: the squared
  // difference from softmax attention's output over its square, averaged over the swapped layers.
  double loss = 0;
  double objective = 0;                // what was minimised
  std::vector<double> transfer_error;  // in attention transfer: of each swapped attention
  double grad_norm = 0;                // before clipping
  double learning_rate = 0;
  std::int64_t tokens = 0;  // predicted in this update
  double seconds = 0;
};

class Trainer {
 public:
  /// `model` has gradients and the weights to start from; every rank of `mesh` makes a trainer with
  /// equal options. Throws a usage error when there are more ranks than sequences an update, when
  /// the sequence length is beyond learned positions, when model and data do not fit, or when ranks
  /// have different ones. `teacher`, on the same mesh, may be null.
  /// Collective.
  Trainer(Transformer& model, Mesh& mesh, TrainData data, const TrainOptions& options,
          std::unique_ptr<Teacher> teacher = nullptr);
  ~Trainer();

  /// Trains from where the run is to options.steps, or to a stop request. Collective: an error on
  /// one rank is thrown on every rank.
  TrainSummary run();

  /// Called on every rank after each update (tests).
  std::function<void(const StepFigures&)> on_step;

  /// What this rank's arenas hold now (activations: after updates).
  TrainMemory memory() const;
  const Optimizer& optimizer() const { return optimizer_; }
  const TrainState& state() const { return state_; }

 private:
  /// One update over all micro-steps. `stop`: some rank was asked to stop.
  StepFigures update(Loader& loader, std::vector<LinearAttentionHealth>* health, bool* stop);
  /// What ranks add up over the micro-steps of an update.
  struct UpdateSums {
    double loss = 0, nll = 0, tokens = 0, flops = 0;
    Transfer transfer;
  };
  /// Adds the gradients and sums of one micro-step.
  void micro_step(Step& step, const Batch& batch, double loss_scale, GradientReducer* reducer,
                  UpdateSums& sums);
  double flops_of(const Batch& batch) const;
  void check_finite(const StepFigures& figures, bool bad_here);
  void check_replicas();
  void resume_or_start();
  void save();
  void update_energy();
  EvaluationResult evaluate_now();

  Transformer& model_;
  std::unique_ptr<Teacher> teacher_;
  Mesh& mesh_;
  TrainData data_;
  TrainOptions options_;
  std::vector<Range> buckets_;  // of the gradients
  Optimizer optimizer_;
  std::variant<Sampler, PairSampler> sampler_;
  Arena activations_, scratch_;
  GradientReducer reducer_;
  TrainState state_;
  std::optional<CheckpointWriter> writer_;  // where there is a run folder
  std::int64_t saved_step_ = -1;
  std::optional<EnergyMeter> energy_;  // on one rank a host
  double energy_counted_ = 0;          // joules that state_ already has
};

}  // namespace t2r
