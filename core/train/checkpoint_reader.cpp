#include "core/train/checkpoint_reader.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/train/checkpoint_files.h"

namespace t2r {
namespace {

using nlohmann::json;

/// Values on their way through the master's type to bf16.
constexpr std::int64_t kRoundingElements = 1 << 16;

std::vector<std::int64_t> dims_of(const Shape& shape) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

/// Runs `work`, which calls no collectives, on every rank; the sentence of the first rank where it
/// threw, on every rank, or "". Collective.
template <class F>
std::string first_failure(Comm& world, F&& work) {
  std::string sentence;
  bool failed = false;
  try {
    work();
  } catch (const std::exception& error) {
    sentence = error.what();
    failed = true;
  }
  const auto rank = static_cast<int>(
      world.all_reduce_value(std::int64_t{failed ? world.rank() : world.size()}, ReduceOp::min));
  if (rank == world.size()) return "";
  sentence = world.broadcast_text(sentence, rank);
  return sentence.empty() ? "unknown" : sentence;
}

/// The checkpoints that the leader sees, newest first.
std::vector<std::int64_t> steps_of_all(Comm& world, const std::string& run_folder) {
  json steps = json::array();
  if (world.rank() == 0) steps = list_checkpoints(run_folder);
  auto all = json::parse(world.broadcast_text(steps.dump(), 0)).get<std::vector<std::int64_t>>();
  std::reverse(all.begin(), all.end());
  return all;
}

void read_into(const CheckpointReader& reader, ParamStore& params,
               std::span<const OwnedRange> owned) {
  for (int i = 0; i < params.count(); ++i) {
    if (!params.trained(ParamId{i})) continue;
    const Tensor value = params.value(ParamId{i});
    dispatch(value.dtype, [&]<class T>() {
      reader.read(CheckpointArray::values, params.spec(ParamId{i}), 0, value.size(), value.as<T>());
    });
  }
  for (const OwnedRange& range : owned)
    for (const auto& [array, memory] : {std::pair{CheckpointArray::values, range.master},
                                        {CheckpointArray::first_moment, range.first_moment},
                                        {CheckpointArray::second_moment, range.second_moment}}) {
      const bool read_already =
          array == CheckpointArray::values &&
          memory.data == params.all_values().row_range(range.begin, range.end).data;
      if (read_already) continue;
      dispatch(memory.dtype, [&, a = array, &m = memory]<class T>() {
        for (int i = 0; i < params.count(); ++i) {
          if (!params.trained(ParamId{i})) continue;
          const std::int64_t offset = params.offset(ParamId{i});
          const std::int64_t size = params.spec(ParamId{i}).shape.size();
          const std::int64_t begin = std::max(offset, range.begin);
          const std::int64_t end = std::min(offset + size, range.end);
          if (begin < end)
            reader.read(a, params.spec(ParamId{i}), begin - offset, end - offset,
                        m.as<T>() + (begin - range.begin));
        }
      });
    }
  params.touch();
}

}  // namespace

CheckpointReader::CheckpointReader(const std::string& folder, const json& state,
                                   const ParamStore& params, const TrainedPart& trained)
    : folder_(folder), trained_(trained) {
  if (state.at("version") == 1)
    open_version_1(state, params);
  else
    open_parts(state);
  check_complete(params);
}

void CheckpointReader::open_parts(const json& state) {
  const json parts = state.value("parts", json());
  check(parts.is_array() && !parts.empty(), "{}/state.json names no parts", folder_);
  for (std::size_t p = 0; p < parts.size(); ++p) {
    const std::string path =
        fmt::format("{}/{}", folder_, part_name(std::ssize(files_), std::ssize(parts)));
    files_.push_back(std::make_unique<SafetensorsFile>(path));
    const SafetensorsFile& file = *files_.back();
    check(parts[p].is_object() && parts[p].value("bytes", json()) == file.file_bytes() &&
              parts[p].value("header_xxh3", json()) == xxh3_text(file.header()),
          "{} is not the part that state.json names: its size or the XXH3 of its header is another",
          path);
    std::int64_t bytes = static_cast<std::int64_t>(file.header().size());
    for (const auto& [tensor, info] : file.tensors()) {
      const auto description = file.metadata().find(tensor);
      const std::string where = fmt::format("{}: the tensor {}", path, tensor);
      check(description != file.metadata().end(), "{} is not described as a piece", where);
      add(file, tensor, parse_piece(description->second, where));
      bytes += info.end - info.begin;
    }
    check(bytes == file.file_bytes(), "{} has bytes that are in no piece", path);
  }
}

/// Whole parameters in a file an array, their hashes in state.json.
void CheckpointReader::open_version_1(const json& state, const ParamStore& params) {
  for (const CheckpointArray array : kCheckpointArrays) {
    files_.push_back(std::make_unique<SafetensorsFile>(
        fmt::format("{}/{}.safetensors", folder_, name_of(array))));
    const SafetensorsFile& file = *files_.back();
    for (int i = 0; i < params.count(); ++i) {
      const ParamSpec& spec = params.spec(ParamId{i});
      if (!holds(spec)) continue;
      check(file.has(spec.name), "{} has no array {}", file.path(), spec.name);
      check(file.info(spec.name).shape == dims_of(spec.whole_shape()),
            "{}: the array {} has another shape than the model's {}", file.path(), spec.name,
            spec.whole_shape().text());
      Piece piece;
      piece.array = array;
      piece.name = spec.name;
      piece.stretch = {spec.whole_shape(), {}, 0, 0, spec.whole_shape().size()};
      piece.xxh3 = state.at("xxh3").at(name_of(array)).at(spec.name).get_ref<const std::string&>();
      add(file, spec.name, piece);
    }
  }
}

void CheckpointReader::add(const SafetensorsFile& file, const std::string& tensor, Piece piece) {
  const SafetensorsInfo& info = file.info(tensor);
  const std::string place = fmt::format("{}: the tensor {}", file.path(), tensor);
  check(info.dtype == "F32" || info.dtype == "F64", "{} has the type {}: it should be F32 or F64",
        place, info.dtype);
  piece.dtype = info.dtype == "F64" ? DType::f64 : DType::f32;
  if (pieces_.empty()) dtype_ = piece.dtype;
  check(piece.dtype == dtype_, "{} has another type than other tensors", place);
  check(info.elements == piece.stretch.size(), "{} has {} elements, its description says {}", place,
        info.elements, piece.stretch.size());
  piece.data = const_cast<std::byte*>(file.raw(tensor).data());  // mapped: never written
  by_parameter_[{piece.array, piece.name}].push_back(pieces_.size());
  pieces_.push_back({std::move(piece), place});
}

void CheckpointReader::check_complete(const ParamStore& params) const {
  for (const CheckpointArray array : kCheckpointArrays)
    for (int i = 0; i < params.count(); ++i) {
      const ParamSpec& spec = params.spec(ParamId{i});
      if (!holds(spec)) continue;
      const std::string what = fmt::format("{}: {} of {}", folder_, name_of(array), spec.name);
      const auto found = by_parameter_.find({array, spec.name});
      check(found != by_parameter_.end(), "{} is missing", what);
      std::vector<Stretch> stretches;
      for (const std::size_t index : found->second) {
        const Stretch& stretch = pieces_[index].piece.stretch;
        check(stretch.whole == spec.whole_shape(),
              "{} has the shape {}, another shape than the model's {}", what, stretch.whole.text(),
              spec.whole_shape().text());
        stretches.push_back(stretch);
      }
      check_covered(std::move(stretches), what);
    }
}

void CheckpointReader::verify(int rank, int size, std::optional<CheckpointArray> only) const {
  std::int64_t total = 0, at = 0;
  const auto counts = [&](const Stored& stored) { return !only || stored.piece.array == *only; };
  for (const Stored& stored : pieces_)
    if (counts(stored)) total += stored.piece.bytes();
  const double share = static_cast<double>(total) / size;
  for (const Stored& stored : pieces_) {
    if (!counts(stored)) continue;
    // By where the middle of the piece lies among all bytes.
    const double middle = static_cast<double>(at) + static_cast<double>(stored.piece.bytes()) / 2;
    at += stored.piece.bytes();
    const int checker = std::min(size - 1, share > 0 ? static_cast<int>(middle / share) : 0);
    if (checker != rank) continue;
    const std::span<const std::byte> data(stored.piece.data,
                                          static_cast<std::size_t>(stored.piece.bytes()));
    check(xxh3_text(data) == stored.piece.xxh3,
          "{} does not have the checksum that was written for it", stored.place);
  }
}

template <class T>
void CheckpointReader::read(CheckpointArray array, const ParamSpec& spec, std::int64_t begin,
                            std::int64_t end, T* out) const {
  if constexpr (std::is_same_v<T, bf16>) {
    std::vector<float> wide(static_cast<std::size_t>(std::min(end - begin, kRoundingElements)));
    for (; begin < end; begin += kRoundingElements, out += kRoundingElements) {
      const std::int64_t last = std::min(begin + kRoundingElements, end);
      read(array, spec, begin, last, wide.data());
      for (std::int64_t i = 0; i < last - begin; ++i)
        out[i] = bf16(wide[static_cast<std::size_t>(i)]);
    }
  } else {
    check(dtype_ == dtype_of<T>(), "{}: {} arrays where {} ones are read", folder_, name_of(dtype_),
          name_of(dtype_of<T>()));
    const Stretch wanted = Stretch::of(spec, begin, end);
    std::int64_t copied = 0;
    for (const std::size_t index : by_parameter_.at({array, spec.name})) {
      const Piece& piece = pieces_[index].piece;
      copied += copy_common(piece.stretch, piece.data, wanted, reinterpret_cast<std::byte*>(out),
                            sizeof(T));
    }
    check(copied == end - begin, "{}: of {} elements of {} there are {}", folder_, end - begin,
          spec.name, copied);
  }
}

template void CheckpointReader::read(CheckpointArray, const ParamSpec&, std::int64_t, std::int64_t,
                                     float*) const;
template void CheckpointReader::read(CheckpointArray, const ParamSpec&, std::int64_t, std::int64_t,
                                     double*) const;
template void CheckpointReader::read(CheckpointArray, const ParamSpec&, std::int64_t, std::int64_t,
                                     bf16*) const;

std::optional<TrainState> load_checkpoint(Comm& world, const std::string& run_folder,
                                          const TrainState& expected, ParamStore& params,
                                          std::span<const OwnedRange> owned) {
  const auto steps = steps_of_all(world, run_folder);
  std::string first_reason;
  for (const std::int64_t step : steps) {
    const std::string folder = checkpoint_folder(run_folder, step);
    json document;
    TrainState state = expected;
    std::string reason = first_failure(world, [&] {
      document = read_checkpoint_state(folder);
      read_progress(document, state);
    });
    if (reason.empty()) {
      const std::string foreign =
          first_failure(world, [&] { check_identity(document, expected, folder); });
      if (!foreign.empty()) throw Error(foreign);
      std::optional<CheckpointReader> reader;
      reason = first_failure(world, [&] {
        reader.emplace(folder, document, params, params.trained_part());
        reader->verify(world.rank(), world.size());
      });
      if (reason.empty()) reason = first_failure(world, [&] { read_into(*reader, params, owned); });
    }
    if (reason.empty()) return state;
    if (world.rank() == 0) warn("the checkpoint {} is damaged and passed over: {}", folder, reason);
    if (first_reason.empty()) first_reason = reason;
  }
  if (steps.empty()) return std::nullopt;
  fail(
      "none of the {} checkpoints in {}/checkpoints can be read ({}); start anew with --resume "
      "never, which keeps them aside",
      steps.size(), run_folder, first_reason);
}

void add_checkpoint_values(const std::string& checkpoint_folder,
                           const std::string& model_fingerprint, const ParamStore& params,
                           std::vector<double>& sums) {
  const json document = read_checkpoint_state(checkpoint_folder);
  check(document.at("identity").value("model", "") == model_fingerprint,
        "{} is a checkpoint of another model", checkpoint_folder);
  const std::string part = document.at("identity").value("trained", name_of(TrainedPart::all));
  check(!part.starts_with("lora"),
        "{} holds low-rank adapters, whose mean is not that of the models they make: average runs "
        "that train matrices themselves",
        checkpoint_folder);
  const TrainedPart trained = parse_trained_part(part);
  const CheckpointReader reader(checkpoint_folder, document, params, trained);
  reader.verify(0, 1, CheckpointArray::values);
  for (int p = 0; p < params.count(); ++p) {
    const ParamSpec& spec = params.spec(ParamId{p});
    double* const to = sums.data() + params.offset(ParamId{p});
    if (!spec.trainable || !trained.trains(spec.group)) {
      const Tensor value = params.value(ParamId{p});
      dispatch(value.dtype, [&]<class T>() {
        using A = accumulate_t<T>;
        for (std::int64_t i = 0; i < value.size(); ++i)
          to[i] += static_cast<double>(static_cast<A>(value.as<T>()[i]));
      });
      continue;
    }
    dispatch(reader.dtype(), [&]<class T>() {
      std::vector<T> values(static_cast<std::size_t>(spec.shape.size()));
      reader.read(CheckpointArray::values, spec, 0, spec.shape.size(), values.data());
      for (std::size_t i = 0; i < values.size(); ++i) to[i] += static_cast<double>(values[i]);
    });
  }
}

}  // namespace t2r
