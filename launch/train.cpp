// t2r train: pretrains a model from nothing, or trains one on (finetuning after the swap).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/log.h"
#include "core/model/cost.h"
#include "core/model/swap.h"
#include "core/train/model_folder.h"
#include "core/train/trainer.h"
#include "data/atomic_file.h"
#include "dist/replica_check.h"
#include "launch/commands.h"
#include "launch/model_options.h"
#include "launch/options.h"
#include "launch/version.h"

namespace t2r {
namespace {

struct Options {
  std::string data, model, teacher, stage = "task";
  double teacher_share = 1;
  std::string trained;  // empty: what the stage asks for
  std::int64_t lora_rank = 8;
  std::optional<double> lora_alpha;
  std::string lora_targets = "q,k,v,o";
  ArchitectureOptions architecture;
  AttentionOptions attention;
  DropoutOptions dropout;
  TrainOptions train;
  std::string packing = "documents", schedule = "cosine", precision = "fp32", device = "cpu";
  std::string resume = "auto", optimizer_sharding = "off", checkpoint_writing = "async";
  std::string train_split = "train", validation_split = "valid";
  std::int64_t steps = 0, tokens = 0;
  std::optional<std::int64_t> warmup;
  double bucket_mib = 2, price_per_hour = 0;
  int dp = 0, tp = 1, cp = 1, threads = 0;
  RankOptions ranks;
  bool no_overlap = false, check_collectives = false, json = false;
};

/// Updates in all: given, or as many as the token budget fills.
std::int64_t update_count(const Options& options, bool pairs) {
  check_usage((options.steps > 0) != (options.tokens > 0),
              "say how long to train: either --steps or --tokens, above 0");
  if (options.steps > 0) return options.steps;
  if (pairs) {
    check_usage(options.train.batch_tokens > 0, "--batch-tokens is {}: it must be at least 1",
                options.train.batch_tokens);
    return (options.tokens + options.train.batch_tokens - 1) / options.train.batch_tokens;
  }
  const std::int64_t an_update = options.train.sequence_length * options.train.global_batch;
  check_usage(an_update > 0, "--sequence-length {} and --batch-size {} must both be at least 1",
              options.train.sequence_length, options.train.global_batch);
  return (options.tokens + an_update - 1) / an_update;
}

TrainedPart trained_part(const Options& options) {
  const bool transfer = parse_stage(options.stage) == Stage::transfer;
  const char* by_stage = transfer ? "feature-maps" : "all";
  TrainedPart part = parse_trained_part(options.trained.empty() ? by_stage : options.trained);
  check_usage(!transfer || part.kind == TrainedPart::feature_maps,
              "--train {}: attention transfer trains feature maps alone; leave --train out, or use "
              "it in the stage after",
              options.trained);
  check_usage(part.kind == TrainedPart::all || transfer || !options.model.empty(),
              "--train {} leaves most parameters as they are, but nothing has trained them yet: "
              "say with --model where to start",
              options.trained);
  if (part.kind != TrainedPart::lora) return part;
  const double alpha = options.lora_alpha.value_or(2 * static_cast<double>(options.lora_rank));
  check_usage(options.lora_rank >= 1 && options.lora_rank <= 65536,
              "--lora-rank {}: it must be from 1 to 65536", options.lora_rank);
  check_usage(std::isfinite(alpha) && alpha > 0, "--lora-alpha {}: it must be above 0", alpha);
  part.lora_options = {options.lora_rank, alpha, parse_lora_targets(options.lora_targets)};
  return part;
}

/// The options as the trainer wants them.
TrainOptions trainer_options(const Options& options, const std::string& base_folder, int threads,
                             bool pairs) {
  TrainOptions train = options.train;
  train.packing = parse_packing(options.packing);
  train.steps = update_count(options, pairs);
  train.resume = parse_resume(options.resume);
  train.stage = parse_stage(options.stage);
  train.asynchronous_checkpoints = parse_checkpoint_writing(options.checkpoint_writing);
  train.schedule.kind = parse_schedule(options.schedule);
  train.schedule.total_steps = train.steps;
  train.schedule.warmup_steps = options.warmup.value_or(train.steps / 20);
  train.schedule.validate();
  check_usage(options.bucket_mib > 0, "--bucket-mib is {}: it must be above 0", options.bucket_mib);
  train.overlap = !options.no_overlap;
  check_usage(options.optimizer_sharding == "on" || options.optimizer_sharding == "off",
              "--optimizer-sharding {}: choose on or off", options.optimizer_sharding);
  train.optimizer_sharding = options.optimizer_sharding == "on";
  train.bucket_bytes =
      std::max<std::int64_t>(1, static_cast<std::int64_t>(options.bucket_mib * 1024 * 1024));
  train.base_folder = base_folder;
  train.version = version();
  train.threads = threads;
  if (base_folder.empty()) {
    train.start = "scratch";
    train.provenance = {{"start", "scratch"}};
  } else {
    train.provenance = read_provenance(base_folder);
    const auto start = train.provenance.find("start");
    train.start = start != train.provenance.end() && start->second == "converted" ? "converted"
                                                                                  : "pretrained";
    train.provenance["trained_from"] = base_folder;
  }
  train.provenance["trained_by"] = fmt::format("t2r {}", version());
  return train;
}

std::unique_ptr<Transformer> new_model(const Options& options, const Dataset& dataset, DType dtype,
                                       const TensorParallel& parallel,
                                       const ContextParallel& context) {
  const DatasetInfo& info = dataset.info();
  ModelConfig config =
      info.translation()
          ? make_translation_config(options.architecture, info.vocab_size,
                                    info.joint_vocabulary() ? 0 : info.source_vocab_size)
          : make_config(options.architecture, info.vocab_size, options.train.sequence_length);
  config = with_linear_attention(config, options.attention);
  config.source_eos = info.source_eos;
  apply(options.dropout, config);
  config.validate();
  auto model =
      std::make_unique<Transformer>(config, dtype, trained_part(options), parallel, context);
  model->params().initialize(options.train.seed);
  return model;
}

std::unique_ptr<Transformer> pretrained_model(const Options& options, const std::string& folder,
                                              DType dtype, const TensorParallel& parallel,
                                              const ContextParallel& context) {
  check_usage(options.attention.feature_map.empty(),
              "--feature-map is for training from nothing: swap the attention of {} with 't2r "
              "convert', then train the result",
              options.model);
  const ModelConfig stored = read_model_config(folder);
  ModelConfig config = stored;
  apply(options.dropout, config);
  const bool same_rates = config.dropout == stored.dropout &&
                          config.attention_dropout == stored.attention_dropout &&
                          config.activation_dropout == stored.activation_dropout &&
                          config.layer_drop == stored.layer_drop;
  const TrainedPart trained = trained_part(options);
  if (same_rates) {
    auto model = load_model(folder, dtype, trained, parallel, context);
    model->params().initialize(options.train.seed, ParamGroup::adapter);
    return model;
  }
  const auto weights = load_model(folder, dtype, TrainedPart::nothing, parallel);
  auto model = std::make_unique<Transformer>(config, dtype, trained, parallel, context);
  transfer_weights(*weights, *model, options.train.seed);
  return model;
}

/// The model that training learns from beside the data, or null.
std::unique_ptr<Teacher> teacher_of(const Options& options, DType dtype,
                                    const TensorParallel& parallel,
                                    const ContextParallel& context) {
  if (options.teacher.empty()) return nullptr;
  auto teacher = std::make_unique<Teacher>(
      load_model(model_folder(options.teacher), dtype, TrainedPart::nothing, parallel, context),
      options.teacher_share);
  info("teacher {}: {} parameters, attention {}, {:.0f} % of the loss", options.teacher,
       teacher->model().params().parameter_count(), describe_attention(teacher->model().config()),
       100 * options.teacher_share);
  return teacher;
}

void describe(const Transformer& model, const Options& options, const TrainOptions& train,
              const Session& session, int ranks, int threads) {
  const ModelConfig& config = model.config();
  const std::string layers =
      config.encoder_decoder()
          ? fmt::format("{} encoder and {} decoder", config.encoder_layers, config.layers)
          : std::to_string(config.layers);
  info("model: {} parameters in {} layers, attention {}", model.params().parameter_count(), layers,
       describe_attention(config));
  if (config.encoder_decoder()) {
    info("run {}: {} updates of about {} target tokens, {} rank{} with {} thread{} each; {}",
         train.run_folder, train.steps, train.batch_tokens, ranks, ranks == 1 ? "" : "s", threads,
         threads == 1 ? "" : "s", options.precision);
    info("batches are ragged: 0 % of their rows are padding");
    return;
  }
  info("run {}: {} updates of {} sequences of {} tokens, {} rank{} with {} thread{} each on {}",
       train.run_folder, train.steps, train.global_batch, train.sequence_length, ranks,
       ranks == 1 ? "" : "s", threads, threads == 1 ? "" : "s",
       ranks == session.place().local_size ? session.place().host : "several hosts");
  const std::int64_t offsets[2] = {0, train.sequence_length};
  const Segments one{1, offsets};
  info(
      "operations of a network pass over {} tokens: {:.4g} FLOPs forward, {:.4g} with backward; "
      "precision {}",
      train.sequence_length, forward_flops(model.config(), one),
      training_flops(model.config(), one), options.precision);
}

/// RUN/summary.json with the price of the run, for the report.
void add_price(const std::string& run_folder, double price_per_hour, double rank_seconds) {
  const std::string path = run_folder + "/summary.json";
  auto summary = nlohmann::ordered_json::parse(read_file(path));
  summary["price"] = rank_seconds / 3600 * price_per_hour;
  write_file_atomically(path, summary.dump(2) + "\n");
}

void print_result(const TrainSummary& summary, const TrainOptions& train, bool json) {
  if (json) {
    nlohmann::ordered_json out = {{"run", train.run_folder},
                                  {"step", summary.state.step},
                                  {"tokens", summary.state.tokens},
                                  {"flops", summary.state.flops},
                                  {"rank_seconds", summary.state.rank_seconds},
                                  {"train_loss", summary.train_loss},
                                  {"stopped", summary.stopped}};
    if (summary.validation) {
      out["loss"] = summary.validation->loss;
      out["perplexity_per_token"] = summary.validation->perplexity_per_token;
      if (summary.validation->words > 0)
        out["perplexity_per_word"] = summary.validation->perplexity_per_word;
    }
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("{}: {} updates, {} tokens, {:.4g} FLOPs, {:.1f} rank-seconds, training loss {:.6f}",
             train.run_folder, summary.state.step, summary.state.tokens, summary.state.flops,
             summary.state.rank_seconds, summary.train_loss);
  if (summary.validation)
    fmt::print(", validation loss {:.6f}, perplexity {:.4f} per token", summary.validation->loss,
               summary.validation->perplexity_per_token);
  fmt::print("\n");
}

/// The lines of the configuration that all ranks must have. Paths and threads may differ between
/// hosts; what lies at the paths is compared by the trainer.
std::string common_configuration(const std::string& configuration) {
  std::istringstream lines(configuration);
  std::string common = fmt::format("t2r {}\n", version());
  for (std::string line; std::getline(lines, line);) {
    const std::string key = line.substr(0, line.find(' '));
    if (key != "data" && key != "model" && key != "teacher" && key != "out" && key != "threads" &&
        key != "json")
      common += line + "\n";
  }
  return common;
}

int run(Session& session, const Options& options, const std::string& configuration) {
  check_usage(options.device == "cpu",
              "--device {}: this program was built for the cpu only; use --device cpu",
              options.device);
  check_usage(options.price_per_hour >= 0, "--price-per-hour is {}: it cannot be below 0",
              options.price_per_hour);
  session.set_ranks(options.ranks);
  Comm& world = session.world(options.check_collectives);
  check_same_text(world, common_configuration(configuration), "their configuration");
  const int threads = session.set_threads(options.threads);
  Mesh mesh = options.dp ? make_mesh(world, options.dp, options.tp, options.cp)
                         : session.mesh(options.tp, options.cp);
  const std::string base = options.model.empty() ? "" : model_folder(options.model);
  const DType dtype = parse_dtype(options.precision);
  const Dataset dataset = Dataset::open(options.data);
  if (!base.empty()) check_same_tokenizer(base, dataset);
  const TrainOptions train = trainer_options(options, base, threads, dataset.info().translation());
  TrainData data = TrainData::from(dataset, options.train_split, options.validation_split);
  const TensorParallel parts(*mesh.tp);
  const ContextParallel context(*mesh.cp);
  const auto model = base.empty() ? new_model(options, dataset, dtype, parts, context)
                                  : pretrained_model(options, base, dtype, parts, context);
  describe(*model, options, train, session, world.size(), threads);

  Trainer trainer(*model, mesh, std::move(data), train, teacher_of(options, dtype, parts, context));
  const TrainMemory memory = trainer.memory();
  const auto mib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  const ParamStore& params = model->params();
  info(
      "training {} of {} parameters ({}): a rank keeps {:.1f} MiB of parameters, {:.1f} MiB of "
      "gradients, {:.1f} MiB of optimizer state",
      params.trained_count(), params.parameter_count(), name_of(params.trained_part()),
      mib(memory.parameters), mib(memory.gradients), mib(memory.optimizer));
  if (world.rank() == 0) {
    make_folders(train.run_folder);
    write_file_atomically(train.run_folder + "/config.toml", configuration);
  }
  const TrainSummary summary = trainer.run();
  if (world.rank() == 0) {
    if (options.price_per_hour > 0 && !summary.stopped)
      add_price(train.run_folder, options.price_per_hour, summary.state.rank_seconds);
    print_result(summary, train, options.json);
  }
  world.barrier();  // no rank may end while another still writes: its launcher would kill it
  return summary.stopped ? kExitSavedStopped : kExitDone;
}

void add_work_options(CLI::App& app, Options& options) {
  TrainOptions& train = options.train;
  const char* group = "Work";
  app.add_option("--steps", options.steps, "Updates in all")->group(group);
  app.add_option("--tokens", options.tokens, "Instead of --steps: tokens to train on, in all")
      ->group(group);
  app.add_option("--sequence-length", train.sequence_length, "Tokens a sequence")->group(group);
  app.add_option("--batch-size", train.global_batch, "Sequences an update, over all ranks")
      ->group(group);
  app.add_option("--micro-batch", train.micro_batch,
                 "Most sequences a forward pass on a rank; results do not depend on it")
      ->group(group);
  app.add_option("--batch-tokens", train.batch_tokens,
                 "Sentence pairs: target tokens an update, over all ranks")
      ->group(group);
  app.add_option("--micro-batch-tokens", train.micro_batch_tokens,
                 "Sentence pairs: most tokens of both sides a forward pass on a rank; results do "
                 "not depend on it")
      ->group(group);
  app.add_option("--packing", options.packing,
                 "documents: sequences are cut at document ends; contiguous: documents run into "
                 "each other")
      ->group(group);
  app.add_option("--train-split", options.train_split, "Split to train on")->group(group);
  app.add_option("--validation-split", options.validation_split, "Split to evaluate on")
      ->group(group);
  app.add_option("--seed", train.seed, "Seed of weights, data order and dropout")->group(group);
  app.add_option("--stage", options.stage,
                 "task: train on the text; transfer: before that, teach each swapped layer alone "
                 "to give what softmax attention gives (attention transfer)")
      ->group(group);
  app.add_option("--train", options.trained,
                 "What is trained: all; attention: all of the attention of swapped layers; "
                 "feature-maps: only what the swap added; lora: that, and low-rank adapters, which "
                 "the model that is written has merged (not given: all, with --stage transfer "
                 "feature-maps)")
      ->group(group);
  app.add_option("--lora-rank", options.lora_rank, "Rank of the adapters")->group(group);
  app.add_option("--lora-alpha", options.lora_alpha,
                 "Adapters are scaled by alpha / rank (not given: twice the rank)")
      ->group(group);
  app.add_option("--lora-targets", options.lora_targets,
                 "Matrices that get adapters: some of q, k, v, o, gate, up, down, fc (the last "
                 "three), with commas")
      ->group(group);
  app.add_option("--teacher", options.teacher,
                 "Model (or run) folder, usually the one that was converted: learn its "
                 "distribution of the next token as well (KL divergence)")
      ->type_name("FOLDER")
      ->group(group);
  app.add_option("--teacher-share", options.teacher_share,
                 "Share of the divergence from the teacher in the loss, the text having the rest")
      ->group(group);
}

void add_optimizer_options(CLI::App& app, Options& options) {
  TrainOptions& train = options.train;
  const char* group = "Optimizer";
  app.add_option("--learning-rate", train.schedule.peak, "Peak learning rate")->group(group);
  app.add_option("--new-parameter-rate", train.adamw.new_parameter_rate,
                 "Times the learning rate, for what the pretrained model did not have: feature "
                 "maps, decays, adapters")
      ->group(group);
  app.add_option("--schedule", options.schedule,
                 "constant, cosine, inverse-sqrt or cosine-restarts")
      ->group(group);
  app.add_option("--warmup", options.warmup, "Updates of linear warm-up (not given: a twentieth)")
      ->group(group);
  app.add_option("--final-ratio", train.schedule.final_ratio,
                 "Last learning rate of a cosine over its peak")
      ->group(group);
  app.add_option("--restart-period", train.schedule.restart_period,
                 "Updates of one cosine of cosine-restarts")
      ->group(group);
  app.add_option("--beta1", train.adamw.beta1, "AdamW: memory of the first moment")->group(group);
  app.add_option("--beta2", train.adamw.beta2, "AdamW: memory of the second moment")->group(group);
  app.add_option("--epsilon", train.adamw.eps, "AdamW: added to the divisor")->group(group);
  app.add_option("--weight-decay", train.adamw.weight_decay, "AdamW: decay of matrices")
      ->group(group);
  app.add_option("--clip", train.clip_norm, "Largest norm of the gradient (0: any)")->group(group);
  app.add_option("--label-smoothing", train.label_smoothing,
                 "Share of the target's probability that is spread over the vocabulary")
      ->group("Regularisation");
  add_dropout_options(app, options.dropout);
}

void add_run_options(CLI::App& app, Options& options) {
  TrainOptions& train = options.train;
  const char* group = "Run";
  app.add_option("--dp", options.dp, "Data-parallel ranks (0: all)")->group(group);
  app.add_option("--tp", options.tp, "Ranks that hold the model together, a part each")
      ->group(group);
  app.add_option(
         "--cp", options.cp,
         "Ranks that share out the tokens of each sequence, a stretch each (long sequences)")
      ->group(group);
  app.add_option("--threads", options.threads, "Threads a rank (0: its share of the cores)")
      ->group(group);
  app.add_option("--device", options.device, "cpu")->group(group);
  app.add_option("--precision", options.precision, "fp32, bf16 or fp64")->group(group);
  app.add_option("--log-every", train.log_every,
                 "Updates between health figures of linear attention")
      ->group(group);
  app.add_option("--eval-every", train.evaluate_every,
                 "Updates between evaluations (0: only at the end)")
      ->group(group);
  app.add_option("--checkpoint-every", train.checkpoint_every,
                 "Updates between checkpoints (0: only at the end)")
      ->group(group);
  app.add_option("--checkpoint-writing", options.checkpoint_writing,
                 "async: training goes on while a checkpoint is written; sync: it waits, and needs "
                 "no memory for a copy")
      ->group(group);
  app.add_option("--keep", train.keep_checkpoints, "Checkpoints to keep")->group(group);
  app.add_option("--replica-check-every", train.replica_check_every,
                 "Updates between comparisons of the ranks' parameters (0: only at checkpoints)")
      ->group(group);
  app.add_option("--resume", options.resume,
                 "auto: go on from the newest checkpoint in --out; never: start anew, old "
                 "checkpoints are moved aside")
      ->group(group);
  app.add_option("--bucket-mib", options.bucket_mib, "Smallest gradient all-reduce, MiB")
      ->group(group);
  app.add_flag("--sequence-parallel", train.sequence_parallel,
               "With --tp: share out the rows of norms, dropout and residual sums as well")
      ->group(group);
  app.add_flag("--recompute", train.recompute,
               "Keep only what goes from block to block for backward, which repeats the rest: less "
               "memory, a third more work")
      ->group(group);
  app.add_option("--optimizer-sharding", options.optimizer_sharding,
                 "on: ranks that hold the same parameters share out master weights and moments; "
                 "off: each has all of them")
      ->group(group);
  app.add_flag("--no-overlap", options.no_overlap,
               "Sum gradients after backward, not during it (to see what overlap saves)")
      ->group(group);
  app.add_flag("--check-collectives", options.check_collectives,
               "Compare every collective between the ranks before it is made (slow)")
      ->group(group);
  add_rank_options(app, options.ranks)->group(group);
  app.add_option("--price-per-hour", options.price_per_hour,
                 "Price of one rank for one hour, for the report")
      ->group(group);
  app.add_flag("--json", options.json, "Print the result as JSON")->group(group);
}

}  // namespace

Run add_train(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--data", options->data, "Dataset folder")->required()->type_name("FOLDER");
  app.add_option("--model", options->model,
                 "Model (or run) folder to start from; without it a new model is trained")
      ->type_name("FOLDER");
  app.add_option("--out", options->train.run_folder, "Run folder: metrics, checkpoints, model")
      ->required()
      ->type_name("FOLDER");
  add_work_options(app, *options);
  add_optimizer_options(app, *options);
  add_architecture_options(app, options->architecture);
  add_attention_options(app, options->attention, "");
  add_run_options(app, *options);
  return [options, &app](Session& session) {
    return run(session, *options, effective_configuration(app));
  };
}

}  // namespace t2r
