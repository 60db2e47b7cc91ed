// Reading of safetensors files (https://github.com/huggingface/safetensors, section "Format").
#include "data/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/shard_layout.h"

namespace t2r {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own bound

/// Bytes of an element; 0 for types that are not known.
std::int64_t element_bytes(const std::string& dtype) {
  static const std::map<std::string, std::int64_t> sizes{
      {"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1},
      {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4}, {"I16", 2},  {"I8", 1},
      {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

/// IEEE 754 binary16 to float.
float from_half(std::uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

/// Through a piece at a time that stays in the cache.
template <class Source, class T, class Convert>
void convert(const MappedFile& file, std::size_t begin, std::span<T> out, Convert&& value) {
  constexpr std::size_t kPieceBytes = 1 << 17;
  std::vector<Source> piece(std::min(out.size(), kPieceBytes / sizeof(Source)));
  for (std::size_t done = 0; done < out.size(); done += piece.size()) {
    const auto part = std::span(piece).first(std::min(piece.size(), out.size() - done));
    file.read(begin + done * sizeof(Source), std::as_writable_bytes(part));
    for (std::size_t i = 0; i < part.size(); ++i) out[done + i] = static_cast<T>(value(part[i]));
  }
}

/// Whether the file's type `dtype` is T, bit for bit.
template <class T>
bool same_type(const std::string& dtype) {
  return dtype == (std::is_same_v<T, float> ? "F32" : std::is_same_v<T, double> ? "F64" : "BF16");
}

/// A JSON array of numbers in [0, 2^63).
std::vector<std::int64_t> sizes_of(const Json& json, const std::string& where) {
  std::vector<std::int64_t> sizes;
  check(json.is_array(), "{} is not a list of numbers", where);
  for (const Json& entry : json) {
    check(entry.is_number_unsigned() && entry.get<std::uint64_t>() <= INT64_MAX,
          "{} holds {}, which is no size", where,
          entry.dump(-1, ' ', false, Json::error_handler_t::replace));
    sizes.push_back(entry.get<std::int64_t>());
  }
  return sizes;
}

SafetensorsInfo parse_entry(const Json& entry, std::int64_t data_begin, std::int64_t file_bytes,
                            const std::string& where) {
  check(entry.is_object() && entry.contains("dtype") && entry["dtype"].is_string() &&
            entry.contains("shape") && entry.contains("data_offsets"),
        "{} has no dtype, shape or data_offsets", where);
  SafetensorsInfo info;
  info.dtype = entry["dtype"].get<std::string>();
  const std::int64_t size = element_bytes(info.dtype);
  check(size > 0, "{} has the unknown type {}", where, info.dtype);
  info.shape = sizes_of(entry["shape"], where + ": its shape");
  info.elements = 1;
  std::int64_t bytes = 0;
  bool fits = true;
  for (std::int64_t dim : info.shape)
    fits = fits && !__builtin_mul_overflow(info.elements, dim, &info.elements);
  fits = fits && !__builtin_mul_overflow(info.elements, size, &bytes);
  check(fits, "{} has a shape that is too large for any file", where);
  const auto offsets = sizes_of(entry["data_offsets"], where + ": its data_offsets");
  check(offsets.size() == 2 && offsets[0] <= offsets[1] && offsets[1] <= file_bytes - data_begin,
        "{} does not lie inside the file: it is truncated or damaged", where);
  check(offsets[1] - offsets[0] == bytes, "{} has {} bytes, but its shape and type need {}", where,
        offsets[1] - offsets[0], bytes);
  info.begin = data_begin + offsets[0];
  info.end = data_begin + offsets[1];
  return info;
}

Json parse_json(std::string_view text, const std::string& path) {
  // A name given twice would hide a tensor, and deep nesting would exhaust the stack.
  std::vector<std::set<std::string>> keys;
  bool repeated = false, deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    deep = deep || depth > 8;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.empty())
      repeated = repeated || !keys.back().insert(value.get<std::string>()).second;
    return !deep;
  };
  Json json = Json::parse(text, watch, false);
  check(!json.is_discarded() && json.is_object() && !deep,
        "{} is damaged or no safetensors file: its header is not valid JSON", path);
  check(!repeated, "{} is damaged: its header names a tensor twice", path);
  return json;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path, true) {
  const auto bytes = file_.bytes();
  std::uint64_t header = 0;
  check(bytes.size() >= 8, "{} is truncated or no safetensors file: it has {} bytes", path,
        bytes.size());
  std::memcpy(&header, bytes.data(), 8);
  check(header <= kMaxHeaderBytes && header <= bytes.size() - 8,
        "{} is truncated or no safetensors file: its header of {} bytes does not fit in {}", path,
        header, bytes.size());
  const auto file_bytes = static_cast<std::int64_t>(bytes.size());
  const auto data_begin = static_cast<std::int64_t>(8 + header);
  header_bytes_ = 8 + header;
  const Json json = parse_json({reinterpret_cast<const char*>(bytes.data()) + 8, header}, path);
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") {
      check(entry.is_object(), "{} is damaged: its __metadata__ is no object", path);
      for (const auto& [key, value] : entry.items()) {
        check(value.is_string(), "{} is damaged: its __metadata__ holds more than text", path);
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    tensors_[name] =
        parse_entry(entry, data_begin, file_bytes, fmt::format("{}: the tensor {}", path, name));
  }
  std::vector<const std::pair<const std::string, SafetensorsInfo>*> by_place;
  for (const auto& tensor : tensors_) by_place.push_back(&tensor);
  std::sort(by_place.begin(), by_place.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  for (std::size_t i = 1; i < by_place.size(); ++i)
    check(by_place[i - 1]->second.end <= by_place[i]->second.begin,
          "{} is damaged: the tensors {} and {} overlap", path, by_place[i - 1]->first,
          by_place[i]->first);
}

const SafetensorsInfo& SafetensorsFile::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  check(found != tensors_.end(), "{} has no tensor {}", file_.path(), name);
  return found->second;
}

std::span<const std::byte> SafetensorsFile::raw(const std::string& name) const {
  const SafetensorsInfo& tensor = info(name);
  return file_.bytes().subspan(static_cast<std::size_t>(tensor.begin),
                               static_cast<std::size_t>(tensor.end - tensor.begin));
}

template <class T>
void SafetensorsFile::read_as(const std::string& name, std::int64_t first, std::span<T> out) const {
  const SafetensorsInfo& tensor = info(name);
  check(first >= 0 && first <= tensor.elements && std::ssize(out) <= tensor.elements - first,
        "{}: elements [{}, {}) of the tensor {}, which has {}", file_.path(), first,
        first + std::ssize(out), name, tensor.elements);
  const auto begin = static_cast<std::size_t>(tensor.begin + first * element_bytes(tensor.dtype));
  if (same_type<T>(tensor.dtype))
    file_.read(begin, std::as_writable_bytes(out));
  else if (tensor.dtype == "F32")
    convert<float>(file_, begin, out, [](float x) { return x; });
  else if (tensor.dtype == "F64")
    convert<double>(file_, begin, out,
                    [](double x) { return std::is_same_v<T, bf16> ? static_cast<float>(x) : x; });
  else if (tensor.dtype == "BF16")
    convert<bf16>(file_, begin, out, [](bf16 x) { return static_cast<float>(x); });
  else if (tensor.dtype == "F16")
    convert<std::uint16_t>(file_, begin, out, from_half);
  else
    fail("{}: the tensor {} has the type {}, which holds no weights (F32, F64, F16, BF16 do)",
         file_.path(), name, tensor.dtype);
}

void SafetensorsFile::read(const std::string& name, std::int64_t first,
                           std::span<float> out) const {
  read_as(name, first, out);
}
void SafetensorsFile::read(const std::string& name, std::int64_t first,
                           std::span<double> out) const {
  read_as(name, first, out);
}
void SafetensorsFile::read(const std::string& name, std::int64_t first, std::span<bf16> out) const {
  read_as(name, first, out);
}

SafetensorsModel SafetensorsModel::open(const std::string& path) {
  namespace fs = std::filesystem;
  std::string file = path;
  if (fs::is_directory(path)) {
    file = (fs::path(path) / "model.safetensors").string();
    if (!fs::exists(file)) file += ".index.json";
    check(fs::exists(file), "{} holds no weights: neither model.safetensors nor its index is there",
          path);
  }
  SafetensorsModel model;
  if (!file.ends_with(".json")) {
    model.files_.push_back(std::make_shared<SafetensorsFile>(file));
    for (const auto& tensor : model.files_[0]->tensors()) model.place_[tensor.first] = 0;
    return model;
  }
  const Json index = parse_json(read_file(file, static_cast<std::int64_t>(kMaxHeaderBytes)), file);
  const auto map = index.find("weight_map");
  check(map != index.end() && map->is_object(), "{} is damaged: it has no weight_map", file);
  std::map<std::string, std::size_t> files;
  for (const auto& [name, entry] : map->items()) {
    const std::string part = entry.is_string() ? entry.get<std::string>() : "";
    check(!part.empty() && fs::path(part).filename() == part,
          "{} is damaged: the file of the tensor {} is not a plain file name", file, name);
    const auto [place, fresh] = files.emplace(part, model.files_.size());
    if (fresh)
      model.files_.push_back(
          std::make_shared<SafetensorsFile>((fs::path(file).parent_path() / part).string()));
    check(model.files_[place->second]->has(name),
          "{} says that the tensor {} is in {}, but it is not", file, name, part);
    model.place_[name] = place->second;
  }
  return model;
}

std::vector<std::string> SafetensorsModel::names() const {
  std::vector<std::string> names;
  for (const auto& entry : place_) names.push_back(entry.first);
  return names;
}

const SafetensorsFile& SafetensorsModel::file_of(const std::string& name) const {
  const auto found = place_.find(name);
  check(found != place_.end(), "the model has no tensor {}", name);
  return *files_[found->second];
}

namespace {

/// Throws where the product does not fit.
std::int64_t bytes_of(const SafetensorsEntry& entry) {
  std::int64_t bytes = size_of(entry.dtype);
  for (std::int64_t dim : entry.shape)
    check(dim >= 0 && !__builtin_mul_overflow(bytes, dim, &bytes),
          "the tensor {} has an impossible shape", entry.name);
  return bytes;
}

}  // namespace

std::string safetensors_header(std::span<const SafetensorsEntry> entries,
                               const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t begin = 0;
  std::set<std::string> names{"__metadata__"};
  for (const SafetensorsEntry& entry : entries) {
    const std::int64_t bytes = bytes_of(entry);
    check(names.insert(entry.name).second, "two tensors with the name {}", entry.name);
    const char* dtype = entry.dtype == DType::f64   ? "F64"
                        : entry.dtype == DType::f32 ? "F32"
                                                    : "BF16";
    header[entry.name] = {
        {"dtype", dtype}, {"shape", entry.shape}, {"data_offsets", {begin, begin + bytes}}};
    begin += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins on a multiple of 8
  const std::uint64_t length = text.size();
  check(length <= kMaxHeaderBytes, "{} tensors are too many for one safetensors file",
        entries.size());
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

void write_safetensors(const std::string& path, std::span<const SafetensorsEntry> entries,
                       const std::map<std::string, std::string>& metadata) {
  AtomicFile file(path);
  file.write(safetensors_header(entries, metadata));
  for (const SafetensorsEntry& entry : entries)
    file.write(std::span(static_cast<const std::byte*>(entry.data),
                         static_cast<std::size_t>(bytes_of(entry))));
  file.commit();
}

}  // namespace t2r
