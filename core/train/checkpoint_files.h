// The folder of a checkpoint: what its files are called, what state.json says, and the order in
// which they appear and disappear, so that a crash at any moment leaves complete checkpoints only.
//
//   RUN/checkpoints/.partial-00000420/   while it is written; then renamed to
//   RUN/checkpoints/step_00000420/part-00000-of-00004.safetensors   pieces of arrays, a file a rank
//                                 state.json   identity, progress, the parts; written last
//
// A part holds tensors "ARRAY/PARAMETER/NUMBER", ARRAY being values, adam_m or adam_v; its metadata
// says of each which piece of the whole parameter it is and its XXH3. state.json has the XXH3 of
// every part's header and of itself.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/train/checkpoint.h"
#include "core/train/checkpoint_pieces.h"

namespace t2r {

constexpr int kCheckpointVersion = 2;

/// "part-00000-of-00004.safetensors".
std::string part_name(std::int64_t number, std::int64_t count);
/// Where the checkpoint of a step is written.
std::string partial_folder(const std::string& run_folder, std::int64_t step);

/// Removes what a killed save left, and makes the folder that the parts go to.
void start_checkpoint(const std::string& run_folder, std::int64_t step);
/// All parts are on the disk: writes state.json, gives the folder its name, moves RUN/latest, and
/// removes all but the newest `keep` (at least 1).
void publish_checkpoint(const std::string& run_folder, const TrainState& state,
                        const std::vector<PartFile>& parts, std::int64_t keep);
/// Removes what is not complete. Throws nothing.
void discard_partial(const std::string& run_folder);

/// FOLDER/state.json. Throws one sentence when it is damaged or of an unknown version.
nlohmann::json read_checkpoint_state(const std::string& folder);
/// Takes the progress from it.
void read_progress(const nlohmann::json& document, TrainState& state);
/// Throws one sentence when the checkpoint belongs to something else than this run.
void check_identity(const nlohmann::json& document, const TrainState& expected,
                    const std::string& folder);

/// XXH3 of a text, padded to whole numbers of 8 bytes, as 16 hexadecimal digits.
std::string hash_of_text(std::string text);

/// Calls the hook that tests set.
void write_point(const char* what);

}  // namespace t2r
