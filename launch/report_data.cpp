#include "launch/report_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/train/model_folder.h"
#include "data/atomic_file.h"
#include "launch/chart.h"
#include "launch/table.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// JSON of a file; one sentence when it is none.
json parse_file(const fs::path& path) {
  try {
    return json::parse(read_file(path.string()));
  } catch (const json::exception& error) {
    fail("{} is damaged: {}", path.string(), error.what());
  }
}

std::optional<double> number(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

SplitQuality quality_of(const std::string& split, const json& object, const fs::path& path) {
  const std::optional<double> loss = number(object, "loss");
  check(loss.has_value(), "{} names no loss: make it again", path.string());
  SplitQuality quality{
      .split = split,
      .loss = *loss,
      .perplexity_per_token = number(object, "perplexity_per_token").value_or(std::exp(*loss)),
      .perplexity_per_word = number(object, "perplexity_per_word")};
  if (quality.perplexity_per_word && *quality.perplexity_per_word <= 0)
    quality.perplexity_per_word.reset();
  return quality;
}

/// The curves of RUN/metrics.jsonl.
void read_metrics(const fs::path& path, ReportRun& run) {
  std::ifstream file(path);
  check(file.good(), "{} is missing: is {} a run?", path.string(), run.folder);
  for (std::string text; std::getline(file, text);) {
    const json line = json::parse(text, nullptr, false);
    if (!line.is_object()) continue;  // a run that was killed may leave half a line at the end
    const double tokens = number(line, "tokens").value_or(0);
    const double flops = number(line, "flops").value_or(0);
    if (const auto loss = number(line, "loss")) run.training.push_back({tokens, flops, *loss});
    if (const auto loss = number(line, "valid_loss"))
      run.validation.push_back({tokens, flops, *loss});
  }
}

const std::string kNone = "-";

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.1f}%", 100 * *share) : kNone;
}

json or_null(const std::optional<double>& value) {
  return value ? json(*value) : json();
}

}  // namespace

ReportRun read_run(const std::string& folder) {
  const fs::path root(folder), summary_path = root / "summary.json";
  check_usage(fs::is_directory(root), "{} is no folder: give run folders of t2r train", folder);
  check(fs::exists(summary_path),
        "{} has no summary.json: that run is not finished, or it is no run", folder);
  const json summary = parse_file(summary_path);
  ReportRun run;
  run.folder = folder;
  run.name = fs::weakly_canonical(root).filename().string();
  run.start = summary.value("start", "scratch");
  run.tokens = number(summary, "tokens").value_or(0);
  run.flops = number(summary, "flops").value_or(0);
  run.rank_seconds = number(summary, "rank_seconds").value_or(0);
  run.joules = number(summary, "energy_joules");
  run.price = number(summary, "price");
  run.sequence_length = static_cast<std::int64_t>(number(summary, "sequence_length").value_or(256));

  const ModelConfig config = read_model_config((root / "model").string());
  run.attention = describe_attention(config);
  run.linear = !config.linear_layers.empty();
  run.parameters = parameter_count(config);
  if (config.encoder_decoder()) run.sequence_length = 32;  // tokens a side, a usual sentence
  const std::int64_t offsets[2] = {0, run.sequence_length};
  const Segments one{1, offsets};
  run.operations = operation_costs(config, one, config.encoder_decoder() ? one : Segments{});

  if (number(summary, "loss")) run.quality.push_back(quality_of("valid", summary, summary_path));
  for (const char* split : {"valid", "test"}) {
    const fs::path path = root / fmt::format("evaluation-{}.json", split);
    if (!fs::exists(path)) continue;
    if (!run.quality.empty() && run.quality[0].split == split) run.quality.clear();
    run.quality.push_back(quality_of(split, parse_file(path), path));
  }
  if (const fs::path path = root / "scores.json"; fs::exists(path)) {
    const json scores = parse_file(path);
    run.bleu = number(scores, "bleu");
    run.chrf = number(scores, "chrf");
    check(run.bleu && run.chrf, "{} names no bleu and chrf: make it again", path.string());
  }
  read_metrics(root / "metrics.jsonl", run);
  return run;
}

void choose_references(Report& report, const std::string& baseline) {
  const auto costliest = [&](bool linear) {
    int best = -1;
    for (std::size_t i = 0; i < report.runs.size(); ++i) {
      const ReportRun& run = report.runs[i];
      if (run.start != "scratch" || run.linear != linear) continue;
      if (best < 0 || run.flops > report.runs[static_cast<std::size_t>(best)].flops)
        best = static_cast<int>(i);
    }
    return best;
  };
  report.teacher = costliest(false);
  report.baseline = costliest(true);
  if (baseline.empty()) return;
  for (std::size_t i = 0; i < report.runs.size(); ++i)
    if (baseline == report.runs[i].name || baseline == report.runs[i].folder) {
      report.baseline = static_cast<int>(i);
      return;
    }
  fail_usage("--baseline {} is none of the runs in the report", baseline);
}

std::optional<double> cost_share(const Report& report, double ReportRun::*cost,
                                 const ReportRun& run) {
  if (report.baseline < 0) return std::nullopt;
  const double whole = report.runs[static_cast<std::size_t>(report.baseline)].*cost;
  return whole > 0 ? std::optional(run.*cost / whole) : std::nullopt;
}

std::optional<double> gap_to_teacher(const Report& report, const ReportRun& run) {
  if (report.teacher < 0 || run.quality.empty()) return std::nullopt;
  const ReportRun& teacher = report.runs[static_cast<std::size_t>(report.teacher)];
  if (teacher.quality.empty()) return std::nullopt;
  return run.quality[0].loss - teacher.quality[0].loss;
}

bool has_scores(const Report& report) {
  return std::ranges::any_of(report.runs,
                             [](const ReportRun& run) { return run.bleu.has_value(); });
}

nlohmann::ordered_json report_json(const Report& report) {
  nlohmann::ordered_json out = {{"runs", nlohmann::ordered_json::array()},
                                {"decoding", nlohmann::ordered_json::array()}};
  for (const ReportRun& run : report.runs) {
    const bool judged = !run.quality.empty();
    nlohmann::ordered_json entry;
    entry["name"] = run.name;
    entry["attention"] = run.attention;
    entry["start"] = run.start;
    entry["parameters"] = run.parameters;
    entry["tokens"] = run.tokens;
    entry["flops"] = run.flops;
    entry["rank_seconds"] = run.rank_seconds;
    entry["cost_share"] = or_null(cost_share(report, &ReportRun::flops, run));
    entry["token_share"] = or_null(cost_share(report, &ReportRun::tokens, run));
    entry["rank_seconds_share"] = or_null(cost_share(report, &ReportRun::rank_seconds, run));
    entry["loss"] = judged ? json(run.quality[0].loss) : json();
    entry["loss_minus_teacher"] = or_null(gap_to_teacher(report, run));
    entry["perplexity_per_token"] = judged ? json(run.quality[0].perplexity_per_token) : json();
    entry["perplexity_per_word"] = judged ? or_null(run.quality[0].perplexity_per_word) : json();
    entry["bleu"] = or_null(run.bleu);
    entry["chrf"] = or_null(run.chrf);
    for (const SplitQuality& quality : run.quality)
      entry["splits"][quality.split] = {
          {"loss", quality.loss},
          {"perplexity_per_token", quality.perplexity_per_token},
          {"perplexity_per_word", or_null(quality.perplexity_per_word)}};
    if (run.joules) entry["energy_joules"] = *run.joules;
    if (run.price) entry["price"] = *run.price;
    for (const OperationCost& operation : run.operations)
      entry["operations"].push_back({{"name", operation.name},
                                     {"forward", operation.forward},
                                     {"backward", operation.backward}});
    entry["operations_sequence_length"] = run.sequence_length;
    out["runs"].push_back(std::move(entry));
  }
  for (const DecodingPoint& point : report.decoding)
    out["decoding"].push_back({{"name", point.name},
                               {"length", point.length},
                               {"tokens_per_second", point.tokens_per_second},
                               {"state_bytes", point.state_bytes}});
  const auto name_or_null = [&](int index) {
    return index < 0 ? json() : json(report.runs[static_cast<std::size_t>(index)].name);
  };
  out["baseline"] = name_or_null(report.baseline);
  out["teacher"] = name_or_null(report.teacher);
  out["decoding_batch"] = report.decoding_batch;
  return out;
}

namespace {

std::string run_rows(const Report& report) {
  std::vector<std::string> head = {"run", "attention", "start"};
  const std::size_t splits = report.runs.empty() ? 0 : report.runs[0].quality.size();
  for (std::size_t i = 0; i < splits; ++i) {
    head.push_back(report.runs[0].quality[i].split + " loss");
    head.emplace_back("ppl/token");
    head.emplace_back("ppl/word");
  }
  const bool translated = has_scores(report);
  if (translated) head.insert(head.end(), {"BLEU", "chrF"});
  for (const char* name :
       {"to teacher", "tokens", "FLOPs", "rank-s", "% FLOPs", "% tokens", "% rank-s"})
    head.emplace_back(name);
  std::vector<std::vector<std::string>> rows = {head};
  for (const ReportRun& run : report.runs) {
    std::vector<std::string> row = {run.name, run.attention, run.start};
    for (std::size_t i = 0; i < splits; ++i) {
      const bool has = i < run.quality.size();
      row.push_back(has ? fmt::format("{:.4f}", run.quality[i].loss) : kNone);
      row.push_back(has ? fmt::format("{:.3f}", run.quality[i].perplexity_per_token) : kNone);
      row.push_back(has && run.quality[i].perplexity_per_word
                        ? short_number(*run.quality[i].perplexity_per_word)
                        : kNone);
    }
    if (translated)
      for (const auto& score : {run.bleu, run.chrf})
        row.push_back(score ? fmt::format("{:.2f}", *score) : kNone);
    const std::optional<double> gap = gap_to_teacher(report, run);
    row.push_back(gap ? fmt::format("{:+.4f}", *gap) : kNone);
    row.push_back(short_number(run.tokens));
    row.push_back(short_number(run.flops));
    row.push_back(fmt::format("{:.1f}", run.rank_seconds));
    row.push_back(percent(cost_share(report, &ReportRun::flops, run)));
    row.push_back(percent(cost_share(report, &ReportRun::tokens, run)));
    row.push_back(percent(cost_share(report, &ReportRun::rank_seconds, run)));
    rows.push_back(std::move(row));
  }
  return format_table(rows);
}

std::string decoding_rows(const Report& report) {
  std::vector<std::vector<std::string>> rows = {{"decoding", "length", "tokens/s", "state bytes"}};
  for (const DecodingPoint& point : report.decoding)
    rows.push_back({point.name, std::to_string(point.length),
                    fmt::format("{:.0f}", point.tokens_per_second),
                    fmt::format("{:.0f}", point.state_bytes)});
  return format_table(rows);
}

std::string pass_rows(const Report& report) {
  std::vector<std::vector<std::string>> rows = {
      {"FLOPs of a network pass", "forward", "backward", "tokens"}};
  for (const ReportRun& run : report.runs) {
    double forward = 0, backward = 0;
    for (const OperationCost& operation : run.operations) {
      forward += operation.forward;
      backward += operation.backward;
    }
    rows.push_back({run.name, short_number(forward), short_number(backward),
                    std::to_string(run.sequence_length)});
  }
  return format_table(rows);
}

}  // namespace

std::string report_table(const Report& report) {
  std::string text = run_rows(report);
  if (!report.decoding.empty()) text.append("\n").append(decoding_rows(report));
  text.append("\n").append(pass_rows(report));
  for (const std::string& sentence : report_conclusions(report))
    text.append("\n").append(sentence).append("\n");
  return text;
}

std::vector<std::string> report_conclusions(const Report& report) {
  std::vector<std::string> sentences;
  if (report.baseline < 0) return sentences;
  const ReportRun& baseline = report.runs[static_cast<std::size_t>(report.baseline)];
  if (baseline.quality.empty()) return sentences;
  for (const ReportRun& run : report.runs) {
    if (run.start != "converted" || run.quality.empty()) continue;
    const double difference = run.quality[0].loss - baseline.quality[0].loss;
    std::string sentence =
        fmt::format("{}: {} loss {:.4f}, {:.4f} {} {} ({:.4f}), at {} of its training cost",
                    run.name, run.quality[0].split, run.quality[0].loss, std::abs(difference),
                    difference < 0 ? "below" : "above", baseline.name, baseline.quality[0].loss,
                    percent(cost_share(report, &ReportRun::flops, run)));
    if (const auto gap = gap_to_teacher(report, run))
      sentence += fmt::format("; from the teacher's loss it is {:+.4f}, {} {:+.4f}", *gap,
                              baseline.name, gap_to_teacher(report, baseline).value_or(0));
    if (run.bleu && baseline.bleu)
      sentence += fmt::format("; BLEU {:.2f}, {} {:.2f}", *run.bleu, baseline.name, *baseline.bleu);
    sentences.push_back(sentence + ".");
  }
  return sentences;
}

}  // namespace t2r
