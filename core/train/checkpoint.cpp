#include "core/train/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/log.h"
#include "core/train/config_json.h"
#include "data/atomic_file.h"
#include "data/safetensors.h"
#include "dist/replica_check.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kFormatVersion = 1;
constexpr std::string_view kStepPrefix = "step_";

WritePointHook write_point_hook;

void write_point(const char* what) {
  if (write_point_hook) write_point_hook(what);
}

std::string checkpoints_folder(const std::string& run_folder) {
  return run_folder + "/checkpoints";
}

std::string hexadecimal(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

std::string hash_text(const std::string& text) {
  std::vector<double> padded(text.size() / sizeof(double) + 1);
  std::memcpy(padded.data(), text.data(), text.size());
  const Shape shape{static_cast<std::int64_t>(padded.size())};
  return hexadecimal(hash_of(Tensor(padded.data(), shape, DType::f64)));
}

/// The files of a checkpoint, and the span that each holds.
struct Part {
  const char* name;
  Tensor span;
};
std::vector<Part> parts_of(const CheckpointSpans& spans) {
  return {
      {"values", spans.values}, {"adam_m", spans.first_moment}, {"adam_v", spans.second_moment}};
}

Tensor slice(const Tensor& span, const ParamStore& params, ParamId id) {
  const std::int64_t begin = params.offset(id);
  return span.row_range(begin, begin + params.spec(id).shape.size());
}

std::vector<std::int64_t> dims_of(const Shape& shape) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

json identity_json(const TrainState& s) {
  return {{"model", s.model_fingerprint},
          {"start", s.start_fingerprint},
          {"dataset", s.dataset_fingerprint},
          {"precision", s.precision},
          {"seed", s.seed},
          {"sequence_length", s.sequence_length},
          {"global_batch", s.global_batch},
          {"packing", s.packing}};
}

json progress_json(const TrainState& s) {
  return {{"step", s.step},
          {"tokens", s.tokens},
          {"flops", s.flops},
          {"wall_seconds", s.wall_seconds},
          {"rank_seconds", s.rank_seconds},
          {"compute_seconds", s.compute_seconds},
          {"exposed_communication_seconds", s.exposed_communication_seconds},
          {"evaluation_seconds", s.evaluation_seconds},
          {"energy_joules", s.energy_joules ? json(*s.energy_joules) : json(nullptr)}};
}

void read_progress(const json& in, TrainState& s) {
  s.step = in.at("step").get<std::int64_t>();
  s.tokens = in.at("tokens").get<std::int64_t>();
  s.flops = in.at("flops").get<double>();
  s.wall_seconds = in.at("wall_seconds").get<double>();
  s.rank_seconds = in.at("rank_seconds").get<double>();
  s.compute_seconds = in.at("compute_seconds").get<double>();
  s.exposed_communication_seconds = in.at("exposed_communication_seconds").get<double>();
  s.evaluation_seconds = in.at("evaluation_seconds").get<double>();
  s.energy_joules.reset();
  if (!in.at("energy_joules").is_null()) s.energy_joules = in.at("energy_joules").get<double>();
}

/// One sentence when the checkpoint belongs to something else than this run.
void check_identity(const json& found, const TrainState& expected, const std::string& folder) {
  const json wanted = identity_json(expected);
  const std::pair<const char*, const char*> things[] = {
      {"model", "of another model (its configuration differs)"},
      {"dataset", "trained on another dataset"},
      {"precision", "in another precision"},
      {"seed", "with another seed"},
      {"sequence_length", "with another sequence length"},
      {"global_batch", "with another number of sequences an update"},
      {"packing", "with another packing"},
      {"start", "of a run that started from other weights"}};
  for (const auto& [key, words] : things)
    if (!found.contains(key) || found[key] != wanted[key])
      fail(
          "{} is a checkpoint {}: it has {}, this run has {}; choose another run folder, or start "
          "anew with --resume never",
          folder, words, found.contains(key) ? found[key].dump() : "none", wanted[key].dump());
}

/// Removes the folder unless told that it is complete.
class PartialFolder {
 public:
  explicit PartialFolder(std::string path) : path_(std::move(path)) { fs::create_directory(path_); }
  ~PartialFolder() {
    std::error_code ignored;
    if (!done_) fs::remove_all(path_, ignored);
  }
  void done() { done_ = true; }

 private:
  std::string path_;
  bool done_ = false;
};

/// Removes what a save that was killed, or this one, left in the run's folder.
void remove_partial(const std::string& run_folder) {
  std::vector<fs::path> partial;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints_folder(run_folder), ignored))
    if (entry.path().filename().string().starts_with(".partial-")) partial.push_back(entry.path());
  for (const auto& entry : fs::directory_iterator(run_folder, ignored))
    if (entry.path().filename().string().starts_with("latest.tmp-"))
      partial.push_back(entry.path());
  for (const fs::path& path : partial) fs::remove_all(path, ignored);
}

void write_into(const std::string& folder, const TrainState& state, const ParamStore& params,
                const CheckpointSpans& spans) {
  json hashes;
  for (const Part& part : parts_of(spans)) {
    std::vector<SafetensorsEntry> entries;
    for (int i = 0; i < params.count(); ++i) {
      const ParamSpec& spec = params.spec(ParamId{i});
      const Tensor values = slice(part.span, params, ParamId{i});
      entries.push_back({spec.name, values.dtype, dims_of(spec.shape), values.data});
      hashes[part.name][spec.name] = hexadecimal(hash_of(values));
    }
    write_point(part.name);
    write_safetensors(folder + "/" + part.name + ".safetensors", entries);
  }
  json document = {{"format", "t2r-checkpoint"},
                   {"version", kFormatVersion},
                   {"identity", identity_json(state)},
                   {"progress", progress_json(state)},
                   {"xxh3", hashes}};
  document["state_xxh3"] = hash_text(document.dump());
  write_point("state");
  write_file_atomically(folder + "/state.json", document.dump(1) + "\n");
}

void load_into(const std::string& folder, const json& document, const ParamStore& params,
               const CheckpointSpans& spans) {
  for (const Part& part : parts_of(spans)) {
    const std::string path = folder + "/" + part.name + ".safetensors";
    const SafetensorsFile file(path);
    for (int i = 0; i < params.count(); ++i) {
      const ParamSpec& spec = params.spec(ParamId{i});
      const Tensor values = slice(part.span, params, ParamId{i});
      check(file.has(spec.name), "{} has no array {}", path, spec.name);
      check(file.info(spec.name).shape == dims_of(spec.shape),
            "{}: the array {} has another shape than the model's {}", path, spec.name,
            spec.shape.text());
      if (values.dtype == DType::f64)
        file.read(spec.name, 0,
                  std::span(values.as<double>(), static_cast<std::size_t>(values.size())));
      else
        file.read(spec.name, 0,
                  std::span(values.as<float>(), static_cast<std::size_t>(values.size())));
      check(document.at("xxh3").at(part.name).at(spec.name) == hexadecimal(hash_of(values)),
            "{}: the array {} does not have the checksum that state.json names", path, spec.name);
    }
  }
}

json read_state(const std::string& folder) {
  const std::string path = folder + "/state.json";
  json document = json::parse(read_file(path), nullptr, false);
  check(document.is_object() && document.value("format", "") == "t2r-checkpoint" &&
            document.contains("identity") && document.contains("progress"),
        "{} is not the state of a checkpoint", path);
  const json checksum = document["state_xxh3"];
  document.erase("state_xxh3");
  check(checksum == hash_text(document.dump()), "{} does not have the checksum that it names",
        path);
  check(document.value("version", 0) == kFormatVersion,
        "{} has the format version {}, this program reads {}", path, document.value("version", 0),
        kFormatVersion);
  return document;
}

}  // namespace

void set_write_point_hook(WritePointHook hook) {
  write_point_hook = std::move(hook);
}

std::string checkpoint_folder(const std::string& run_folder, std::int64_t step) {
  return fmt::format("{}/{}{:08d}", checkpoints_folder(run_folder), kStepPrefix, step);
}

std::vector<std::int64_t> list_checkpoints(const std::string& run_folder) {
  std::vector<std::int64_t> steps;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints_folder(run_folder), error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kStepPrefix)) continue;
    const std::string digits = name.substr(kStepPrefix.size());
    if (digits.empty() || digits.size() > 15 ||
        digits.find_first_not_of("0123456789") != std::string::npos)
      continue;
    steps.push_back(std::stoll(digits));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void save_checkpoint(const std::string& run_folder, const TrainState& state,
                     const ParamStore& params, const CheckpointSpans& spans, std::int64_t keep) {
  const std::string folder = checkpoints_folder(run_folder);
  const std::string final_name = checkpoint_folder(run_folder, state.step);
  try {
    make_folders(folder);
    remove_partial(run_folder);
    write_point("folder");
    const std::string temporary = fmt::format("{}/.partial-{:08d}", folder, state.step);
    PartialFolder guard(temporary);
    write_into(temporary, state, params, spans);
    sync_folder(temporary);
    write_point("rename");
    // A checkpoint of this step is there when it was found damaged and the run resumed from an
    // older one: what is written now takes its place.
    if (fs::exists(final_name)) fs::rename(final_name, folder + "/.partial-replaced");
    write_point("replaced");
    fs::rename(temporary, final_name);
    guard.done();
    write_point("renamed");
    sync_folder(folder);
    write_point("latest");
    write_file_atomically(run_folder + "/latest", fs::path(final_name).filename().string() + "\n");
    write_point("prune");
    const auto steps = list_checkpoints(run_folder);
    const auto excess = static_cast<std::int64_t>(steps.size()) - std::max<std::int64_t>(keep, 1);
    for (std::int64_t i = 0; i < excess; ++i) {
      const std::int64_t step = steps[static_cast<std::size_t>(i)];
      if (step == state.step) continue;
      // Under a partial's name first: a checkpoint that is half removed is none.
      fs::rename(checkpoint_folder(run_folder, step),
                 fmt::format("{}/.partial-old-{:08d}", folder, step));
      write_point("remove old");
    }
    remove_partial(run_folder);
  } catch (const std::exception& error) {
    fail(
        "cannot save the checkpoint of step {}: {}; earlier checkpoints are kept, and the same "
        "command resumes from the newest",
        state.step, error.what());
  }
}

std::optional<TrainState> load_checkpoint(const std::string& run_folder, const TrainState& expected,
                                          const ParamStore& params, const CheckpointSpans& spans) {
  auto steps = list_checkpoints(run_folder);
  if (steps.empty()) return std::nullopt;
  std::string first_reason;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::string folder = checkpoint_folder(run_folder, *step);
    json document;
    TrainState state = expected;
    try {
      document = read_state(folder);
      read_progress(document.at("progress"), state);
    } catch (const std::exception& error) {
      warn("the checkpoint {} is damaged and passed over: {}", folder, error.what());
      if (first_reason.empty()) first_reason = error.what();
      continue;
    }
    check_identity(document.at("identity"), expected, folder);
    try {
      load_into(folder, document, params, spans);
    } catch (const std::exception& error) {
      warn("the checkpoint {} is damaged and passed over: {}", folder, error.what());
      if (first_reason.empty()) first_reason = error.what();
      continue;
    }
    return state;
  }
  fail(
      "none of the {} checkpoints in {} can be read ({}); start anew with --resume never, which "
      "keeps them aside",
      steps.size(), checkpoints_folder(run_folder), first_reason);
}

void add_checkpoint_values(const std::string& checkpoint_folder,
                           const std::string& model_fingerprint, const ParamStore& params,
                           std::vector<double>& sums) {
  const json document = read_state(checkpoint_folder);
  check(document.at("identity").value("model", "") == model_fingerprint,
        "{} is a checkpoint of another model", checkpoint_folder);
  const std::string path = checkpoint_folder + "/values.safetensors";
  const SafetensorsFile file(path);
  for (int p = 0; p < params.count(); ++p) {
    const ParamSpec& spec = params.spec(ParamId{p});
    check(file.has(spec.name), "{} has no array {}", path, spec.name);
    check(file.info(spec.name).shape == dims_of(spec.shape),
          "{}: the array {} has another shape than the model's {}", path, spec.name,
          spec.shape.text());
    const DType dtype = file.info(spec.name).dtype == "F64" ? DType::f64 : DType::f32;
    double* const to = sums.data() + params.offset(ParamId{p});
    dispatch(dtype, [&]<class T>() {
      std::vector<T> values(static_cast<std::size_t>(spec.shape.size()));
      file.read(spec.name, 0, std::span<T>(values));
      check(document.at("xxh3").at("values").at(spec.name) ==
                hexadecimal(hash_of(Tensor(values.data(), Shape{spec.shape.size()}, dtype))),
            "{}: the array {} does not have the checksum that state.json names", path, spec.name);
      for (std::size_t i = 0; i < values.size(); ++i)
        to[i] += static_cast<double>(static_cast<accumulate_t<T>>(values[i]));
    });
  }
}

void set_checkpoints_aside(const std::string& run_folder) {
  const std::string folder = checkpoints_folder(run_folder);
  if (access(folder.c_str(), F_OK) != 0) return;
  for (int i = 1;; ++i) {
    const std::string aside = fmt::format("{}.old-{}", folder, i);
    if (access(aside.c_str(), F_OK) == 0) continue;
    fs::rename(folder, aside);
    std::error_code ignored;
    fs::remove(run_folder + "/latest", ignored);
    sync_folder(run_folder);
    info("earlier checkpoints were moved to {}", aside);
    return;
  }
}

void broadcast_progress(Comm& comm, TrainState& state) {
  read_progress(json::parse(comm.broadcast_text(progress_json(state).dump(), 0)), state);
}

std::string fingerprint(const ModelConfig& config) {
  return hash_text(canonical_config_json(config).dump());
}

std::string fingerprint(const ParamStore& params) {
  std::vector<double> hashes;
  for (int i = 0; i < params.count(); ++i)
    hashes.push_back(std::bit_cast<double>(hash_of(params.value(ParamId{i}))));
  const Shape shape{static_cast<std::int64_t>(hashes.size())};
  return hexadecimal(hash_of(Tensor(hashes.data(), shape, DType::f64)));
}

}  // namespace t2r
