// Reads checkpoints on any mesh: every rank checks a share of the pieces and reads the slices that
// it needs. Files are trusted in nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/train/checkpoint.h"
#include "core/train/checkpoint_pieces.h"
#include "core/train/optimizer.h"
#include "data/safetensors.h"
#include "dist/comm.h"

namespace t2r {

/// The mapped parts of one checkpoint, of this or the first version.
class CheckpointReader {
 public:
  /// `state`: what read_checkpoint_state gave. Throws one sentence unless the parts are those that
  /// it names, with sound headers, and hold the model that `params` is (a part of), each element of
  /// each array once.
  /// Only what `trained` names is in it: other values are those of the model that training started
  /// from.
  CheckpointReader(const std::string& folder, const nlohmann::json& state, const ParamStore& params,
                   const TrainedPart& trained);

  /// Throws one sentence unless the pieces that are the `rank`th of `size` ranks' to check have the
  /// XXH3 that they should; of `only` one array, or of all.
  void verify(int rank, int size, std::optional<CheckpointArray> only = {}) const;

  /// Elements [begin, end) of what this rank holds of a parameter, to out[0, end - begin), in the
  /// type that they were written in, or rounded from it to bf16.
  template <class T>
  void read(CheckpointArray array, const ParamSpec& spec, std::int64_t begin, std::int64_t end,
            T* out) const;
  /// The type of the arrays: fp32 or fp64.
  DType dtype() const { return dtype_; }

 private:
  struct Stored {
    Piece piece;  // its data are in the mapped file
    std::string place;
  };

  void open_parts(const nlohmann::json& state);
  void open_version_1(const nlohmann::json& state, const ParamStore& params);
  void add(const SafetensorsFile& file, const std::string& tensor, Piece piece);
  void check_complete(const ParamStore& params) const;
  bool holds(const ParamSpec& spec) const { return spec.trainable && trained_.trains(spec.group); }

  std::string folder_;
  TrainedPart trained_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Stored> pieces_;  // in the order of the files
  std::map<std::pair<CheckpointArray, std::string>, std::vector<std::size_t>> by_parameter_;
  DType dtype_ = DType::f32;
};

/// Loads the newest checkpoint that is sound; one that is damaged is passed over with a warning.
/// Every rank gets the values of its part of what is trained, and the master weights and moments of
/// `owned`. Nothing when the run has no checkpoint. Throws one sentence, on every rank, when the
/// checkpoint belongs to another model, dataset or configuration than `expected`, or when all are
/// damaged. Collective.
std::optional<TrainState> load_checkpoint(Comm& world, const std::string& run_folder,
                                          const TrainState& expected, ParamStore& params,
                                          std::span<const OwnedRange> owned);

/// Adds the parameters of a checkpoint, in master precision, to `sums`, which lies as the arena of
/// `params` does; for those that were not trained, their values in `params`. Throws one sentence
/// when it is damaged or of another model than `model_fingerprint` names.
void add_checkpoint_values(const std::string& checkpoint_folder,
                           const std::string& model_fingerprint, const ParamStore& params,
                           std::vector<double>& sums);

}  // namespace t2r
