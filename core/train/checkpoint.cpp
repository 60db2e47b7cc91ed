#include "core/train/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/log.h"
#include "core/train/checkpoint_files.h"
#include "core/train/checkpoint_pieces.h"
#include "core/train/config_json.h"
#include "data/atomic_file.h"
#include "dist/replica_check.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStepPrefix = "step_";

std::string checkpoints_folder(const std::string& run_folder) {
  return run_folder + "/checkpoints";
}

}  // namespace

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

std::string fingerprint(const ModelConfig& config) {
  return hash_of_text(canonical_config_json(config).dump());
}

std::string fingerprint(const ParamStore& params, const TensorParallel& parallel) {
  std::vector<std::uint64_t> hashes;
  std::vector<std::byte> whole;
  for (int i = 0; i < params.count(); ++i) {
    const ParamId id{i};
    if (parallel.rank() == 0)
      whole.resize(
          static_cast<std::size_t>(params.spec(id).whole_shape().size() * size_of(params.dtype())));
    gather_parameter(parallel, params, params.all_values(), id, whole.data());
    hashes.push_back(xxh3_of(whole));
  }
  const std::string mine = xxh3_text(std::as_bytes(std::span(hashes)));
  return parallel.active() ? parallel.comm()->broadcast_text(mine, 0) : mine;
}

}  // namespace t2r
