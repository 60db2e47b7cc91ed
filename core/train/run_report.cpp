#include "core/train/run_report.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/log.h"
#include "core/model/cost.h"
#include "core/train/machine.h"
#include "core/train/model_folder.h"
#include "data/atomic_file.h"

namespace t2r {
namespace {

using nlohmann::json;

std::string made(const std::string& folder) {
  make_folders(folder);
  return folder;
}

json health_json(const LinearAttentionHealth& h) {
  return {{"max_feature", h.max_feature},
          {"max_denominator", h.max_denominator},
          {"clamped_share", h.clamped_share},
          {"dead_feature_share", h.dead_feature_share}};
}

json or_null(double value, bool known) {
  return known ? json(value) : json(nullptr);
}

}  // namespace

RunReport::RunReport(const TrainOptions& options, const TrainState& state,
                     double peak_flops_per_second)
    : options_(options),
      peak_(peak_flops_per_second),
      metrics_(made(options.run_folder) + "/metrics.jsonl", state.step),
      events_(options.run_folder + "/tensorboard", state.step),
      last_flops_(state.flops) {}

void RunReport::update(const StepFigures& f, const TrainState& state,
                       const std::optional<EvaluationResult>& validation,
                       const std::vector<LinearAttentionHealth>& health, bool flush) {
  const double tokens_per_second = static_cast<double>(f.tokens) / f.seconds;
  json line = {{"step", f.step},
               {"tokens", state.tokens},
               {"loss", f.loss},
               {"learning_rate", f.learning_rate},
               {"grad_norm", f.grad_norm},
               {"seconds", f.seconds},
               {"tokens_per_second", tokens_per_second},
               {"flops", state.flops},
               {"rank_seconds", state.rank_seconds},
               {"wall_seconds", state.wall_seconds}};
  if (options_.label_smoothing > 0 || f.objective != f.loss) line["objective"] = f.objective;
  if (!f.transfer_error.empty()) line["transfer_error"] = f.transfer_error;
  if (validation) {
    line["valid_loss"] = validation->loss;
    line["valid_perplexity_per_token"] = validation->perplexity_per_token;
    if (validation->words > 0) line["valid_perplexity_per_word"] = validation->perplexity_per_word;
    events_.scalar("valid/loss", f.step, validation->loss);
    events_.scalar("valid/perplexity", f.step, validation->perplexity_per_token);
  }
  events_.scalar("train/loss", f.step, f.loss);
  events_.scalar("train/grad_norm", f.step, f.grad_norm);
  events_.scalar("train/learning_rate", f.step, f.learning_rate);
  events_.scalar("speed/tokens_per_second", f.step, tokens_per_second);
  if (!health.empty()) line["health"] = json::array();
  for (std::size_t i = 0; i < health.size(); ++i) {
    line["health"].push_back(health_json(health[i]));
    const std::string tag = fmt::format("health/{}/", i);
    events_.scalar(tag + "max_feature", f.step, health[i].max_feature);
    events_.scalar(tag + "max_denominator", f.step, health[i].max_denominator);
    events_.scalar(tag + "clamped_share", f.step, health[i].clamped_share);
    events_.scalar(tag + "dead_feature_share", f.step, health[i].dead_feature_share);
  }
  metrics_.append(line);
  if (flush || validation) events_.flush();

  const double weight = seconds_per_update_ == 0 ? 1 : 0.1;
  const auto average = [&](double& mean, double value) { mean += weight * (value - mean); };
  average(seconds_per_update_, f.seconds);
  average(tokens_per_update_, static_cast<double>(f.tokens));
  average(flops_per_update_, state.flops - last_flops_);
  last_flops_ = state.flops;
  ProgressFigures figures;
  figures.step = f.step;
  figures.total_steps = options_.steps;
  figures.loss = f.loss;
  figures.tokens_per_second = tokens_per_update_ / seconds_per_update_;
  figures.flops_per_second = flops_per_update_ / seconds_per_update_;
  figures.peak_flops_per_second = peak_;
  figures.seconds_left = seconds_per_update_ * static_cast<double>(options_.steps - f.step);
  progress(progress_text(figures), f.step == options_.steps);
  if (validation)
    info("update {}: validation loss {:.4f}, perplexity {:.2f} a token", f.step, validation->loss,
         validation->perplexity_per_token);
}

void write_summary(const TrainOptions& options, const ModelConfig& config, const Mesh& mesh,
                   const TrainSummary& summary) {
  const TrainState& state = summary.state;
  const EvaluationResult valid = summary.validation.value_or(EvaluationResult{});
  const bool evaluated = summary.validation.has_value();
  const double training_seconds = state.compute_seconds + state.exposed_communication_seconds;
  const double rate = training_seconds > 0 ? state.flops / training_seconds : 0;
  const json document = {
      {"format", "t2r-summary"},
      {"attention", describe_attention(config)},
      {"start", options.start},
      {"stage", name_of(options.stage)},
      {"objective", state.objective},
      {"trained", state.trained},
      {"trained_parameters", summary.trained_parameters},
      {"parameters", parameter_count(config)},
      {"steps", state.step},
      {"tokens", state.tokens},
      {"flops", state.flops},
      {"rank_seconds", state.rank_seconds},
      {"wall_seconds", state.wall_seconds},
      {"compute_seconds", state.compute_seconds},
      {"exposed_communication_seconds", state.exposed_communication_seconds},
      {"evaluation_seconds", state.evaluation_seconds},
      {"checkpoint_stall_seconds", summary.checkpoint_stall_seconds},
      {"energy_joules", state.energy_joules ? json(*state.energy_joules) : json(nullptr)},
      {"peak_memory_bytes", summary.peak_memory_bytes},
      {"memory",
       {{"parameters_bytes", summary.memory.parameters},
        {"gradients_bytes", summary.memory.gradients},
        {"optimizer_bytes", summary.memory.optimizer},
        {"activations_bytes", summary.memory.activations}}},
      {"tokens_per_second",
       training_seconds > 0 ? static_cast<double>(state.tokens) / training_seconds : 0},
      {"flops_per_second", rate},
      {"peak_flops_per_second",
       or_null(summary.peak_flops_per_second, summary.peak_flops_per_second > 0)},
      {"utilisation",
       or_null(rate / summary.peak_flops_per_second, summary.peak_flops_per_second > 0)},
      {"train_loss", summary.train_loss},
      {"loss", or_null(valid.loss, evaluated)},
      {"perplexity_per_token", or_null(valid.perplexity_per_token, evaluated)},
      {"perplexity_per_word", or_null(valid.perplexity_per_word, valid.words > 0)},
      {"validation_tokens", valid.tokens},
      {"validation_words", valid.words},
      {"mesh", {{"dp", mesh.dp->size()}, {"cp", mesh.cp->size()}, {"tp", mesh.tp->size()}}},
      {"threads", options.threads},
      {"device", "cpu"},
      {"processor", processor_name()},
      {"precision", state.precision},
      {"version", options.version},
      {"seed", options.seed},
      {"sequence_length", options.sequence_length},
      {"global_batch", options.global_batch},
      {"packing", state.packing},
      {"schedule", name_of(options.schedule.kind)},
      {"learning_rate", options.schedule.peak},
      {"new_parameter_rate", options.adamw.new_parameter_rate},
      {"dataset", state.dataset_fingerprint},
      {"provenance", options.provenance}};
  write_file_atomically(options.run_folder + "/summary.json", document.dump(2) + "\n");
}

}  // namespace t2r
