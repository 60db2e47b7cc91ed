#include "core/train/checkpoint_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>

#include "core/train/checkpoint_pieces.h"
#include "data/atomic_file.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::mutex hook_mutex;
std::shared_ptr<WritePointHook> write_point_hook;

std::string checkpoints_folder(const std::string& run_folder) {
  return run_folder + "/checkpoints";
}

json identity_json(const TrainState& s) {
  return {{"model", s.model_fingerprint},
          {"start", s.start_fingerprint},
          {"dataset", s.dataset_fingerprint},
          {"precision", s.precision},
          {"seed", s.seed},
          {"sequence_length", s.sequence_length},
          {"global_batch", s.global_batch},
          {"packing", s.packing},
          {"objective", s.objective},
          {"trained", s.trained}};
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

void write_state(const std::string& folder, const TrainState& state,
                 const std::vector<PartFile>& parts) {
  json document = {{"format", "t2r-checkpoint"},
                   {"version", kCheckpointVersion},
                   {"identity", identity_json(state)},
                   {"progress", progress_json(state)},
                   {"parts", json::array()}};
  for (const PartFile& part : parts)
    document["parts"].push_back(
        {{"bytes", part.bytes}, {"header_xxh3", fmt::format("{:016x}", part.header_xxh3)}});
  document["state_xxh3"] = hash_of_text(document.dump());
  write_file_atomically(folder + "/state.json", document.dump(1) + "\n");
}

}  // namespace

void set_write_point_hook(WritePointHook hook) {
  const std::lock_guard lock(hook_mutex);
  write_point_hook = hook ? std::make_shared<WritePointHook>(std::move(hook)) : nullptr;
}

void write_point(const char* what) {
  std::shared_ptr<WritePointHook> hook;
  {
    const std::lock_guard lock(hook_mutex);
    hook = write_point_hook;
  }
  if (hook) (*hook)(what);
}

std::string hash_of_text(std::string text) {
  text.resize((text.size() / 8 + 1) * 8, '\0');
  return xxh3_text(std::as_bytes(std::span(text)));
}

std::string part_name(std::int64_t number, std::int64_t count) {
  return fmt::format("part-{:05d}-of-{:05d}.safetensors", number, count);
}

std::string partial_folder(const std::string& run_folder, std::int64_t step) {
  return fmt::format("{}/.partial-{:08d}", checkpoints_folder(run_folder), step);
}

void read_progress(const json& document, TrainState& s) {
  const json& in = document.at("progress");
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

void check_identity(const json& document, const TrainState& expected, const std::string& folder) {
  json found = document.at("identity");
  if (!found.contains("objective")) found["objective"] = "";  // older than teachers
  if (!found.contains("trained")) found["trained"] = name_of(TrainedPart::all);  // older as well
  const json wanted = identity_json(expected);
  const std::pair<const char*, const char*> things[] = {
      {"model", "of another model (its configuration differs)"},
      {"dataset", "trained on another dataset"},
      {"precision", "in another precision"},
      {"seed", "with another seed"},
      {"sequence_length", "with another sequence length"},
      {"global_batch", "with another number of sequences an update"},
      {"packing", "with another packing"},
      {"objective", "of a run that minimises something else"},
      {"trained", "of a run that trains another part of the parameters (--train)"},
      {"start", "of a run that started from other weights"}};
  for (const auto& [key, words] : things)
    if (!found.contains(key) || found[key] != wanted[key])
      fail(
          "{} is a checkpoint {}: it has {}, this run has {}; choose another run folder, or start "
          "anew with --resume never",
          folder, words, found.contains(key) ? found[key].dump() : "none", wanted[key].dump());
}

void discard_partial(const std::string& run_folder) {
  std::vector<fs::path> partial;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints_folder(run_folder), ignored))
    if (entry.path().filename().string().starts_with(".partial-")) partial.push_back(entry.path());
  for (const auto& entry : fs::directory_iterator(run_folder, ignored))
    if (entry.path().filename().string().starts_with("latest.tmp-"))
      partial.push_back(entry.path());
  for (const fs::path& path : partial) fs::remove_all(path, ignored);
}

void start_checkpoint(const std::string& run_folder, std::int64_t step) {
  make_folders(checkpoints_folder(run_folder));
  discard_partial(run_folder);
  write_point("folder");
  fs::create_directory(partial_folder(run_folder, step));
}

void publish_checkpoint(const std::string& run_folder, const TrainState& state,
                        const std::vector<PartFile>& parts, std::int64_t keep) {
  const std::string folder = checkpoints_folder(run_folder);
  const std::string temporary = partial_folder(run_folder, state.step);
  const std::string final_name = checkpoint_folder(run_folder, state.step);
  write_point("state");
  write_state(temporary, state, parts);
  sync_folder(temporary);
  write_point("rename");
  // A checkpoint of this step is there when it was found damaged and the run resumed from an
  // older one: what is written now takes its place.
  if (fs::exists(final_name)) fs::rename(final_name, folder + "/.partial-replaced");
  write_point("replaced");
  fs::rename(temporary, final_name);
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
  discard_partial(run_folder);
}

json read_checkpoint_state(const std::string& folder) {
  const std::string path = folder + "/state.json";
  json document = json::parse(read_file(path), nullptr, false);
  check(document.is_object() && document.value("format", "") == "t2r-checkpoint" &&
            document.contains("identity") && document.contains("progress"),
        "{} is not the state of a checkpoint", path);
  const json checksum = document["state_xxh3"];
  document.erase("state_xxh3");
  check(checksum == hash_of_text(document.dump()), "{} does not have the checksum that it names",
        path);
  const json& number = document["version"];
  const int version = number.is_number_unsigned() ? number.get<int>() : 0;
  check(version == 1 || version == kCheckpointVersion,
        "{} has the format version {}, this program reads 1 to {}", path, version,
        kCheckpointVersion);
  return document;
}

}  // namespace t2r
