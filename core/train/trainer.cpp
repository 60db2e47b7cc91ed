#include "core/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "core/base/log.h"
#include "core/model/cost.h"
#include "core/train/checkpoint_reader.h"
#include "core/train/collective_error.h"
#include "core/train/machine.h"
#include "core/train/model_folder.h"
#include "core/train/run_report.h"
#include "core/train/stop_request.h"
#include "core/train/token_batch.h"
#include "dist/replica_check.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Parameters made by a seed could differ in the last bit between processors: all ranks take those
/// of the first that holds the same.
ParamStore& with_equal_values(Transformer& model, const Mesh& mesh) {
  ParamStore& params = model.params();
  if (mesh.replicas->size() > 1) mesh.replicas->broadcast(params.all_values(), 0, Queue{});
  if (mesh.tp->size() > 1)
    for (int i = 0; i < params.count(); ++i)
      if (!params.spec(ParamId{i}).split())
        mesh.tp->broadcast(params.value(ParamId{i}), 0, Queue{});
  params.touch();
  return params;
}

void check_windows(const TrainOptions& options, const ModelConfig& config, const Mesh& mesh) {
  check_usage(
      options.global_batch >= 1 && options.micro_batch >= 1 && options.sequence_length >= 1,
      "batches of {} sequences of {} tokens in micro-batches of {}: each must be at least 1",
      options.global_batch, options.sequence_length, options.micro_batch);
  check_usage(mesh.dp->size() <= options.global_batch,
              "{} data-parallel ranks, but only {} sequences an update: use at most {} ranks, a "
              "larger batch, or ranks that share out the tokens of a sequence (--cp)",
              mesh.dp->size(), options.global_batch, options.global_batch);
  check_usage(
      config.positions == Positions::rotary || options.sequence_length <= config.max_positions,
      "a sequence length of {}, but the model has {} positions: use at most {}",
      options.sequence_length, config.max_positions, config.max_positions);
}

/// A window of pairs is a pair, and a batch so many tokens.
TrainOptions of_pairs(TrainOptions options, const ModelConfig& config, const TrainData& data) {
  check_usage(options.batch_tokens >= 1 && options.micro_batch_tokens >= 1,
              "batches of {} tokens in micro-batches of {}: each must be at least 1",
              options.batch_tokens, options.micro_batch_tokens);
  check_usage(data.source_vocab_size <= config.source_vocabulary(),
              "the dataset has source token ids up to {}, the model has a source vocabulary of {}: "
              "they do not belong together",
              data.source_vocab_size - 1, config.source_vocabulary());
  check_source_end(data.source_eos, config);
  options.global_batch = options.batch_tokens;
  options.sequence_length = 1;
  options.packing = Packing::documents;
  return options;
}

std::variant<Sampler, PairSampler> make_sampler(const TrainData& data, const TrainOptions& options,
                                                const ModelConfig& config) {
  if (const auto* text = std::get_if<TokenStream>(&data.train))
    return Sampler(*text, options.sequence_length, options.packing, options.global_batch,
                   options.seed);
  PairSampler sampler(std::get<PairStream>(data.train), options.batch_tokens, options.seed);
  const std::int64_t longest = std::max(sampler.longest_source(), sampler.longest_target());
  check_usage(longest <= config.max_positions,
              "the dataset has a sentence of {} tokens, but the model has {} positions: prepare it "
              "with --max-length {}, or train a model with --max-positions {}",
              longest, config.max_positions, config.max_positions - 1, longest);
  return sampler;
}

void check_teacher(const Teacher& teacher, const Transformer& model) {
  const ModelConfig &t = teacher.model().config(), &m = model.config();
  check_usage(t.vocab_size == m.vocab_size && t.encoder_decoder() == m.encoder_decoder() &&
                  t.source_vocabulary() == m.source_vocabulary(),
              "the teacher has a vocabulary of {} and the model one of {}: a teacher must be a "
              "model of the same kind with the same vocabulary",
              t.vocab_size, m.vocab_size);
  check(teacher.model().params().dtype() == model.params().dtype() &&
            teacher.model().parallel().size() == model.parallel().size() &&
            teacher.model().context().size() == model.context().size(),
        "a teacher that is spread over the ranks otherwise than the model");
}

/// What a run minimises, for its checkpoints; empty: the loss of the task alone.
std::string objective_text(const TrainOptions& options, const Teacher* teacher) {
  if (options.stage == Stage::transfer) return "attention transfer";
  if (!teacher) return "";
  return fmt::format("{} KL to {}", teacher->share(),
                     fingerprint(teacher->model().params(), teacher->model().parallel()));
}

void check_adapters(const ParamStore& params) {
  if (params.trained_part().kind != TrainedPart::lora) return;
  for (int i = 0; i < params.count(); ++i)
    if (params.spec(ParamId{i}).group == ParamGroup::adapter) return;
  fail_usage("no matrix of this model is among the LoRA targets {}: choose others",
             fmt::join(params.trained_part().lora_options.targets, ","));
}

TrainOptions checked(TrainOptions options, const Transformer& model, const Mesh& mesh,
                     const TrainData& data, const Teacher* teacher) {
  const ModelConfig& config = model.config();
  const bool pairs = std::holds_alternative<PairStream>(data.train);
  // First of all: different ones would make different collectives.
  check_same_text(mesh.world, fingerprint(config), "the model's configuration (its fingerprint)");
  check_same_text(mesh.world, data.fingerprint, "the dataset (its fingerprint)");
  check(model.context().size() == mesh.cp->size(),
        "a model for {} context-parallel ranks on a mesh with {}", model.context().size(),
        mesh.cp->size());
  check_usage(model.params().gradient_span() > 0,
              "nothing to train: this model has no parameters of the part '{}'; convert it first "
              "with a feature map that is learned, or train another part",
              name_of(model.params().trained_part()));
  check_adapters(model.params());
  check_usage(options.steps >= 1, "{} updates: there must be at least 1", options.steps);
  check_usage(!pairs || config.encoder_decoder(),
              "the dataset holds sentence pairs, but the model is a language model: it needs a "
              "dataset of plain text");
  check_usage(pairs || !config.encoder_decoder(),
              "the model translates, but the dataset holds plain text: it needs sentence pairs, "
              "made with 't2r prepare --source --target'");
  if (pairs) {
    options = of_pairs(std::move(options), config, data);
  } else {
    check_windows(options, config, mesh);
  }
  check_usage(data.vocab_size <= config.vocab_size,
              "the dataset has token ids up to {}, the model has a vocabulary of {}: they do not "
              "belong together",
              data.vocab_size - 1, config.vocab_size);
  check_usage(options.label_smoothing >= 0 && options.label_smoothing < 1,
              "label smoothing of {}: it must be at least 0 and below 1", options.label_smoothing);
  check_usage(
      std::isfinite(options.adamw.new_parameter_rate) && options.adamw.new_parameter_rate > 0,
      "new parameters learn at {} times the learning rate: it must be above 0",
      options.adamw.new_parameter_rate);
  check_usage(options.clip_norm >= 0, "a clipping norm of {}: it must be 0 (off) or more",
              options.clip_norm);
  check_usage(options.stage == Stage::task || !config.linear_layers.empty(),
              "attention transfer teaches swapped layers, but all attention of this model is "
              "softmax: convert it first with 't2r convert'");
  check_usage(options.stage == Stage::task || !teacher,
              "attention transfer learns from the model's own softmax attention: leave the teacher "
              "for the stage after it");
  if (teacher) check_teacher(*teacher, model);
  if (options.schedule.total_steps == 0) options.schedule.total_steps = options.steps;
  options.schedule.validate();
  if (options.base_folder.empty()) options.base_folder = data.folder;
  return options;
}

std::int64_t bucket_elements(const TrainOptions& options, const ParamStore& params) {
  return std::max<std::int64_t>(1, options.bucket_bytes / size_of(params.all_grads().dtype));
}

}  // namespace

Resume parse_resume(const std::string& name) {
  check_usage(name == "auto" || name == "never", "resume '{}': choose auto or never", name);
  return name == "auto" ? Resume::automatic : Resume::never;
}

Stage parse_stage(const std::string& name) {
  check_usage(name == "task" || name == "transfer", "stage '{}': choose task or transfer", name);
  return name == "task" ? Stage::task : Stage::transfer;
}

const char* name_of(Stage stage) {
  return stage == Stage::task ? "task" : "transfer";
}

bool parse_checkpoint_writing(const std::string& name) {
  check_usage(name == "async" || name == "sync", "checkpoint writing '{}': choose async or sync",
              name);
  return name == "async";
}

TrainData TrainData::from(const Dataset& dataset, const std::string& train_split,
                          const std::string& validation_split) {
  TrainData data{dataset.corpus(train_split),
                 {},
                 0,
                 dataset.vocab_size(),
                 dataset.info().source_vocab_size,
                 dataset.fingerprint(),
                 dataset.folder(),
                 dataset.info().source_eos};
  if (dataset.has_split(validation_split)) {
    data.validation = dataset.corpus(validation_split);
    data.validation_words = dataset.split(validation_split).words;
  }
  return data;
}

Trainer::Trainer(Transformer& model, Mesh& mesh, TrainData data, const TrainOptions& options,
                 std::unique_ptr<Teacher> teacher)
    : model_(model),
      teacher_(std::move(teacher)),
      mesh_(mesh),
      data_(std::move(data)),
      options_(checked(options, model, mesh, data_, teacher_.get())),
      buckets_(cut_buckets(model.params().gradient_span(), model.ready_offsets(),
                           bucket_elements(options_, model.params()))),
      optimizer_(with_equal_values(model, mesh), options_.adamw,
                 {options_.optimizer_sharding ? mesh.replicas.get() : nullptr, buckets_}),
      sampler_(make_sampler(data_, options_, model.config())),
      activations_(machine_memory_bytes()),
      scratch_(machine_memory_bytes()),
      reducer_(*mesh.replicas, model.params().all_grads(), buckets_, Queue{},
               {.overlap = options_.overlap, .sharded = optimizer_.sharded()}) {
  state_.model_fingerprint = fingerprint(model.config());
  // Where training starts from nothing the seed says it all, and values may differ in the last bit
  // between processors.
  if (options_.start != "scratch")
    state_.start_fingerprint = fingerprint(model.params(), model.parallel());
  state_.dataset_fingerprint = data_.fingerprint;
  state_.precision = name_of(model.params().dtype());
  state_.seed = options_.seed;
  state_.sequence_length = options_.sequence_length;
  state_.global_batch = options_.global_batch;
  state_.packing = name_of(options_.packing);
  state_.objective = objective_text(options_, teacher_.get());
  state_.trained = name_of(model.params().trained_part());
}

Trainer::~Trainer() = default;

void Trainer::resume_or_start() {
  if (options_.run_folder.empty()) return;
  const std::vector<OwnedRange> owned = optimizer_.owned();
  writer_.emplace(options_.run_folder, mesh_, model_.params(), owned, options_.keep_checkpoints,
                  options_.asynchronous_checkpoints);
  if (options_.resume == Resume::never) {
    on_leader(mesh_.world, [&] { set_checkpoints_aside(options_.run_folder); });
    return;
  }
  const auto found =
      load_checkpoint(mesh_.world, options_.run_folder, state_, model_.params(), owned);
  if (!found) return;
  state_ = *found;
  saved_step_ = state_.step;
  info("resuming {} from update {}", options_.run_folder, state_.step);
}

double Trainer::flops_of(const Batch& batch) const {
  const ModelConfig& config = model_.config();
  double flops = 0;
  if (options_.stage == Stage::transfer) {
    // Softmax attention's forward pass, and linear attention's in both directions beside it.
    ModelConfig softmax = config;
    softmax.linear_layers.clear();
    flops = forward_flops(softmax, batch.segments, batch.source.segments) +
            linear_training_flops(config, batch.segments, batch.source.segments);
  } else {
    flops = training_flops(config, batch.segments, batch.source.segments,
                           model_.params().trained_part());
  }
  if (teacher_)
    flops += forward_flops(teacher_->model().config(), batch.segments, batch.source.segments);
  return flops / mesh_.cp->size();  // whole sequences, counted by each of them
}

void Trainer::micro_step(Step& step, const Batch& batch, double loss_scale,
                         GradientReducer* reducer, UpdateSums& sums) {
  sums.flops += flops_of(batch);
  if (options_.stage == Stage::transfer) {
    sums.transfer.scale = loss_scale;
    model_.transfer_step(step, batch, sums.transfer);
    // Of the whole sequences, as the loss of the task counts its targets.
    for (std::int64_t row = 0; row < batch.rows; ++row)
      sums.tokens += (batch.targets[row] != kIgnoredTarget ? 1.0 : 0.0) / mesh_.cp->size();
    return;
  }
  step.teacher = teacher_.get();
  const CrossEntropySums part =
      model_.train_step(step, batch, loss_scale, options_.label_smoothing, reducer);
  sums.loss += part.loss;
  sums.nll += part.nll;
  sums.tokens += static_cast<double>(part.rows);
}

StepFigures Trainer::update(Loader& loader, std::vector<LinearAttentionHealth>* health,
                            bool* stop) {
  const auto start = Clock::now();
  const double exposed_before = reducer_.exposed_seconds() + optimizer_.exposed_seconds();
  ParamStore& params = model_.params();
  const Queue queue;
  StepFigures figures;
  figures.step = state_.step + 1;
  figures.learning_rate = options_.schedule.at(figures.step);

  fill(queue, params.all_grads(), 0);
  UpdateSums here;
  if (options_.stage == Stage::transfer) here.transfer.layers.resize(model_.transfer_layers());
  for (bool last = false; !last;) {
    const TokenBatch batch = loader.next();
    const Batch view = batch_of(batch);
    last = batch.last_micro_step;
    if (batch.rows() > 0) {
      Step step{.activations = activations_,
                .scratch = scratch_,
                .queue = queue,
                .train = true,
                .seed = options_.seed,
                .step = static_cast<std::uint64_t>(state_.step),
                .health = batch.micro_step == 0 ? health : nullptr,
                .sequence_parallel = options_.sequence_parallel,
                .recompute = options_.recompute};
      const auto count = static_cast<double>(std::max<std::int64_t>(batch.update_target_count, 1));
      micro_step(step, view, 1 / count, last ? &reducer_ : nullptr, here);
    } else if (last) {  // of earlier micro-steps
      model_.sum_shared_gradients(queue, {0, params.gradient_span()}, options_.sequence_parallel);
    }
  }
  reducer_.finish();

  // All that ranks have to agree on, in one message.
  for (const Transfer::Layer& layer : here.transfer.layers) here.loss += layer.error;
  const double bad = std::isfinite(here.loss) ? 0 : 1;
  std::vector<double> sums{here.loss,  here.nll, here.tokens,
                           here.flops, bad,      stop_requested() ? 1.0 : 0.0};
  const std::size_t layers_begin = sums.size();
  for (const Transfer::Layer& layer : here.transfer.layers)
    sums.insert(sums.end(), {layer.error, layer.target});
  mesh_.replicas->all_reduce(Tensor(sums.data(), Shape{std::ssize(sums)}, DType::f64),
                             ReduceOp::sum, queue);
  if (mesh_.tp->size() > 1) sums[5] = mesh_.tp->all_reduce_value(sums[5], ReduceOp::max);
  *stop = sums[5] > 0;
  const double count = std::max(sums[2], 1.0);
  figures.objective = sums[0] / count;
  figures.loss = sums[1] / count;
  for (std::size_t i = layers_begin; i < sums.size(); i += 2)
    figures.transfer_error.push_back(sums[i] / std::max(sums[i + 1], 1e-300));
  for (const double error : figures.transfer_error)
    figures.loss += error / static_cast<double>(figures.transfer_error.size());
  figures.tokens = std::llround(sums[2]);
  figures.grad_norm = optimizer_.global_norm(queue, model_.parallel());
  check_finite(figures, bad != 0);

  if (writer_) writer_->await_snapshot();
  optimizer_.update(queue, figures.learning_rate,
                    clip_factor(figures.grad_norm, options_.clip_norm), figures.step);
  state_.step = figures.step;
  state_.tokens += figures.tokens;
  state_.flops += sums[3];
  figures.seconds = seconds_since(start);
  const double exposed = reducer_.exposed_seconds() + optimizer_.exposed_seconds() - exposed_before;
  state_.exposed_communication_seconds += exposed;
  state_.compute_seconds += figures.seconds - exposed;
  state_.rank_seconds += figures.seconds * mesh_.world.size();
  return figures;
}

void Trainer::check_finite(const StepFigures& figures, bool bad_here) {
  if (std::isfinite(figures.loss) && std::isfinite(figures.objective) &&
      std::isfinite(figures.grad_norm))
    return;
  // Every rank comes here: losses and gradients were summed over ranks.
  if (writer_) writer_->finish();
  Comm& world = mesh_.world;
  const int nobody = world.size();
  const auto rank =
      world.all_reduce_value(std::int64_t{bad_here ? world.rank() : nobody}, ReduceOp::min);
  const std::string where = rank < nobody ? fmt::format("rank {}", rank) : "no rank alone";
  const std::string parameter = optimizer_.first_bad_gradient();
  fail(
      "update {} is not finite: loss {}, gradient norm {} (loss first bad on {}; first bad "
      "gradient: {}); nothing was changed and checkpoints are intact: try a lower learning rate, "
      "a longer warm-up or a tighter clipping norm",
      figures.step, figures.loss, figures.grad_norm, where, parameter.empty() ? "none" : parameter);
}

void Trainer::check_replicas() {
  if (mesh_.replicas->size() > 1)
    check_replicas_equal(*mesh_.replicas,
                         optimizer_.sharded() ? model_.params().all_values() : optimizer_.master(),
                         fmt::format("the parameters after update {}", state_.step));
}

void Trainer::save() {
  if (options_.run_folder.empty() || saved_step_ == state_.step) return;
  check_replicas();  // each writes a share for all
  update_energy();
  writer_->save(state_);
  saved_step_ = state_.step;
}

void Trainer::update_energy() {
  // Known only where every host has counters.
  const std::optional<double> mine = energy_ ? energy_->joules() : std::optional<double>(0.0);
  const double missing = mesh_.world.all_reduce_value(mine ? 0.0 : 1.0, ReduceOp::sum);
  const double joules = mesh_.world.all_reduce_value(mine.value_or(0), ReduceOp::sum);
  if (missing > 0)
    state_.energy_joules.reset();
  else if (state_.energy_joules)
    *state_.energy_joules += joules - energy_counted_;
  energy_counted_ = joules;
}

EvaluationResult Trainer::evaluate_now() {
  const auto start = Clock::now();
  EvaluationOptions options;
  options.sequence_length = options_.sequence_length;
  options.packing = options_.packing;
  options.micro_batch = options_.micro_batch;
  options.micro_batch_tokens = options_.micro_batch_tokens;
  const EvaluationResult result = evaluate(model_, *mesh_.dp, *data_.validation,
                                           data_.validation_words, options, activations_, scratch_);
  state_.evaluation_seconds += seconds_since(start);
  return result;
}

TrainMemory Trainer::memory() const {
  const ParamStore& params = model_.params();
  return {.parameters = params.all_values().bytes(),
          .gradients = params.all_grads().bytes(),
          .optimizer = optimizer_.state_bytes(),
          .activations = activations_.peak() + scratch_.peak()};
}

TrainSummary Trainer::run() {
  const StopSignals signals;
  Comm& world = mesh_.world;
  resume_or_start();
  if (first_rank_on_host(world)) energy_.emplace();
  if (state_.step == 0) state_.energy_joules = 0;
  TrainSummary summary;
  if (options_.measure_peak) {
    world.barrier();
    summary.peak_flops_per_second =
        world.all_reduce_value(measure_gemm_rate(model_.params().dtype()), ReduceOp::sum);
  }
  std::unique_ptr<RunReport> report;
  on_leader(world, [&] {
    if (!options_.run_folder.empty())
      report = std::make_unique<RunReport>(options_, state_, summary.peak_flops_per_second);
  });

  const Mesh& mesh = mesh_;
  Loader loader = std::holds_alternative<Sampler>(sampler_)
                      ? Loader(std::get<Sampler>(sampler_), mesh.dp->rank(), mesh.dp->size(),
                               options_.micro_batch, state_.step)
                      : Loader(std::get<PairSampler>(sampler_), mesh.dp->rank(), mesh.dp->size(),
                               options_.micro_batch_tokens, state_.step);
  auto mark = Clock::now();
  const auto count_wall = [&] {
    state_.wall_seconds += seconds_since(mark);
    mark = Clock::now();
  };
  const auto due = [&](std::int64_t every) {
    return state_.step == options_.steps || (every > 0 && state_.step % every == 0);
  };
  while (state_.step < options_.steps) {
    const bool log = (state_.step + 1) % std::max<std::int64_t>(options_.log_every, 1) == 0 ||
                     state_.step + 1 == options_.steps;
    std::vector<LinearAttentionHealth> health;
    bool stop = false;
    const StepFigures figures = update(loader, log ? &health : nullptr, &stop);
    summary.train_loss = figures.loss;
    if (log && energy_) energy_->joules();  // before the counters wrap
    summary.validation.reset();
    if (data_.validation && !stop && due(options_.evaluate_every))
      summary.validation = evaluate_now();
    count_wall();
    if (report) report->update(figures, state_, summary.validation, health, log);
    if (on_step) on_step(figures);
    if (options_.replica_check_every > 0 && state_.step % options_.replica_check_every == 0)
      check_replicas();
    if (writer_) writer_->poll();
    if (stop || due(options_.checkpoint_every)) save();
    if (stop && writer_) writer_->finish();
    count_wall();
    if (stop) {
      summary.stopped = true;
      info("stopped on request after update {} of {}; the same command goes on from there",
           state_.step, options_.steps);
      break;
    }
  }

  if (!summary.stopped && data_.validation && !summary.validation) {
    summary.validation = evaluate_now();  // the run was complete before
    count_wall();
  }
  if (writer_) writer_->finish();
  count_wall();
  if (writer_) summary.checkpoint_stall_seconds = writer_->stall_seconds();
  update_energy();
  summary.state = state_;
  summary.trained_parameters = model_.params().trained_count();
  const TrainMemory here = memory();
  for (std::int64_t TrainMemory::*bytes : {&TrainMemory::parameters, &TrainMemory::gradients,
                                           &TrainMemory::optimizer, &TrainMemory::activations})
    summary.memory.*bytes = world.all_reduce_value(here.*bytes, ReduceOp::max);
  summary.peak_memory_bytes = world.all_reduce_value(peak_memory_bytes(), ReduceOp::max);
  if (!summary.stopped && !options_.run_folder.empty()) {
    std::exception_ptr failure;
    try {
      if (mesh_.replicas->rank() == 0)
        save_model(model_, options_.run_folder + "/model", options_.provenance,
                   options_.base_folder);
    } catch (...) {
      failure = std::current_exception();
    }
    on_leader(world, [&] {
      if (failure) std::rethrow_exception(failure);
      write_summary(options_, model_.config(), mesh_, summary);
    });
  }
  return summary;
}

}  // namespace t2r
