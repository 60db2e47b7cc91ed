#include "data/gguf.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::size_t kMaxKeyBytes = 65535, kMaxNameBytes = 64;

enum ValueType : std::uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

/// Bytes of a value; of those without a fixed size the least.
std::size_t least_bytes(std::uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kArray:
      return 12;
    case kString:
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

/// Reads fields one after the other.
class GgufFile::Cursor {
 public:
  explicit Cursor(const MappedFile& file) : path_(file.path()), all_(file.bytes()) {}

  std::span<const std::byte> take(std::uint64_t bytes, const std::string& what) {
    check(bytes <= all_.size() - at_, "{} ends inside {}: it is cut off or damaged", path_, what);
    const auto taken = all_.subspan(at_, bytes);
    at_ += bytes;
    return taken;
  }
  template <class T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::string text(const std::string& what, std::size_t most = SIZE_MAX) {
    const auto bytes = number<std::uint64_t>(what);
    check(bytes <= most, "{}: {} has {} bytes, more than {}: it is damaged", path_, what, bytes,
          most);
    const auto taken = take(bytes, what);
    std::string value(reinterpret_cast<const char*>(taken.data()), taken.size());
    check(find_invalid_utf8(value) < 0, "{}: {} is not valid UTF-8: it is damaged", path_, what);
    return value;
  }
  /// Numbers as int64 or double.
  std::int64_t integer(std::uint32_t type, const std::string& what) {
    switch (type) {
      case kUint8:
        return number<std::uint8_t>(what);
      case kInt8:
        return number<std::int8_t>(what);
      case kUint16:
        return number<std::uint16_t>(what);
      case kInt16:
        return number<std::int16_t>(what);
      case kUint32:
        return number<std::uint32_t>(what);
      case kInt32:
        return number<std::int32_t>(what);
      case kBool: {
        const auto value = number<std::uint8_t>(what);
        check(value <= 1, "{}: {} is {}, not true or false: it is damaged", path_, what, value);
        return value;
      }
      case kUint64: {
        const auto value = number<std::uint64_t>(what);
        check(value <= INT64_MAX, "{}: {} is {}, which is too large", path_, what, value);
        return static_cast<std::int64_t>(value);
      }
      default:
        return number<std::int64_t>(what);
    }
  }
  double real(std::uint32_t type, const std::string& what) {
    return type == kFloat32 ? number<float>(what) : number<double>(what);
  }
  /// A number of things of at least `bytes` bytes each that are still to come.
  std::uint64_t count(std::size_t bytes, const std::string& what) {
    const auto things = number<std::uint64_t>(what);
    check(things <= left() / bytes,
          "{}: {} says {}, more than its {} bytes can hold: it is damaged", path_, what, things,
          all_.size());
    return things;
  }
  std::size_t left() const { return all_.size() - at_; }
  std::size_t at() const { return at_; }

 private:
  std::string path_;
  std::span<const std::byte> all_;
  std::size_t at_ = 0;
};

GgufFile::Value GgufFile::read_value(Cursor& in, std::uint32_t type,
                                     const std::string& what) const {
  if (type == kString) return in.text(what);
  if (type == kBool) return in.integer(type, what) != 0;
  if (type == kFloat32 || type == kFloat64) return in.real(type, what);
  check(type <= kFloat64, "{}: {} has the unknown type {}: it is damaged, or newer than t2r",
        path(), what, type);
  if (type != kArray) return in.integer(type, what);

  const auto element = in.number<std::uint32_t>(what);
  const std::size_t least = least_bytes(element);
  check(least > 0, "{}: {} is a list of the unknown type {}: it is damaged, or newer than t2r",
        path(), what, element);
  check(element != kArray, "{}: {} is a list of lists, which is not supported", path(), what);
  const std::uint64_t count = in.count(least, what);
  if (element == kString) {
    Texts texts;
    for (std::uint64_t i = 0; i < count; ++i) texts.push_back(in.text(what));
    return texts;
  }
  if (element == kFloat32 || element == kFloat64) {
    Reals reals;
    for (std::uint64_t i = 0; i < count; ++i) reals.push_back(in.real(element, what));
    return reals;
  }
  Numbers numbers;
  for (std::uint64_t i = 0; i < count; ++i) numbers.push_back(in.integer(element, what));
  return numbers;
}

void GgufFile::read_metadata(Cursor& in, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string key = in.text(fmt::format("key {} of its metadata", i + 1), kMaxKeyBytes);
    const std::string what = "the value of " + key;
    const auto type = in.number<std::uint32_t>(what);
    check(metadata_.emplace(key, read_value(in, type, what)).second,
          "{} gives the key {} twice: it is damaged", path(), key);
  }
}

void GgufFile::read_tensors(Cursor& in, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string name = in.text(fmt::format("the name of tensor {}", i + 1), kMaxNameBytes);
    const std::string what = "the tensor " + name;
    const auto dimensions = in.number<std::uint32_t>(what);
    check(dimensions >= 1 && dimensions <= kMaxDimensions,
          "{}: {} has {} dimensions: from 1 to {} are possible", path(), what, dimensions,
          kMaxDimensions);
    GgufTensor tensor;
    std::int64_t elements = 1;
    bool fits = true;
    for (std::uint32_t d = 0; d < dimensions; ++d) {
      const auto size = in.number<std::uint64_t>(what);
      fits = fits && size > 0 && size <= INT64_MAX &&
             !__builtin_mul_overflow(elements, static_cast<std::int64_t>(size), &elements);
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(size));
    }
    check(fits, "{}: {} has a shape that no file can hold: it is damaged", path(), what);
    const auto type = in.number<std::uint32_t>(what);
    tensor.type = find_ggml_type(type);
    check(tensor.type != nullptr,
          "{}: {} has the unknown type {}: it is damaged, or newer than t2r", path(), what, type);
    tensor.columns = tensor.shape.back();
    tensor.rows = elements / tensor.columns;
    check(tensor.columns % tensor.type->elements == 0,
          "{}: {} has rows of {} elements, which are no whole blocks of {} of the type {}", path(),
          what, tensor.columns, tensor.type->elements, tensor.type->name);
    const std::int64_t blocks = elements / tensor.type->elements;
    const auto offset = in.number<std::uint64_t>(what);
    std::int64_t bytes = 0;
    check(offset <= INT64_MAX && !__builtin_mul_overflow(blocks, tensor.type->bytes, &bytes),
          "{}: {} does not fit in any file: it is damaged", path(), what);
    tensor.begin = static_cast<std::int64_t>(offset);  // place_tensors adds where the data begins
    tensor.end = bytes;
    check(tensors_.emplace(name, std::move(tensor)).second, "{} holds {} twice: it is damaged",
          path(), what);
  }
}

/// Offsets in the file for those in the data.
void GgufFile::place_tensors(std::uint64_t header_bytes) {
  std::int64_t alignment = 32;
  if (has_value("general.alignment")) alignment = integer("general.alignment");
  check(alignment > 0 && alignment <= (1 << 20) && (alignment & (alignment - 1)) == 0,
        "{}: its alignment is {} bytes, which is no power of two", path(), alignment);
  const auto size = std::ssize(file_.bytes());
  const std::int64_t data =
      (static_cast<std::int64_t>(header_bytes) + alignment - 1) / alignment * alignment;
  std::vector<std::pair<std::int64_t, const std::string*>> order;
  for (auto& [name, tensor] : tensors_) {
    const std::int64_t bytes = tensor.end;
    check(tensor.begin % alignment == 0,
          "{}: the tensor {} begins at {}, which is no multiple of {}: it is damaged", path(), name,
          tensor.begin, alignment);
    check(data <= size && tensor.begin <= size - data && bytes <= size - data - tensor.begin,
          "{}: the tensor {} does not lie inside the file: it is cut off or damaged", path(), name);
    tensor.begin += data;
    tensor.end = tensor.begin + bytes;
    order.emplace_back(tensor.begin, &name);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : *a.second < *b.second;
  });
  for (std::size_t i = 1; i < order.size(); ++i)
    check(tensors_[*order[i - 1].second].end <= order[i].first,
          "{} is damaged: the tensors {} and {} overlap", path(), *order[i - 1].second,
          *order[i].second);
}

GgufFile::GgufFile(const std::string& path) : file_(path) {
  Cursor in(file_);
  const auto magic = in.number<std::uint32_t>("its header");
  check(magic == kMagic, "{} is no GGUF file: it does not begin with GGUF", path);
  version_ = in.number<std::uint32_t>("its header");
  check(version_ == 2 || version_ == 3,
        "{} is a GGUF file of version {}: 2 and 3 can be read, little-endian", path, version_);
  const std::uint64_t tensors = in.count(8 + 4 + 8 + 4 + 8, "its number of tensors");
  const std::uint64_t keys = in.count(8 + 4 + 1, "its number of metadata keys");
  read_metadata(in, keys);
  read_tensors(in, tensors);
  place_tensors(in.at());
}

template <class T>
const T& GgufFile::value(const std::string& key, const char* kind) const {
  const auto found = metadata_.find(key);
  check(found != metadata_.end(), "{} has no {} in its metadata", path(), key);
  const T* value = std::get_if<T>(&found->second);
  check(value != nullptr, "{}: {} in its metadata is not {}", path(), key, kind);
  return *value;
}

std::int64_t GgufFile::integer(const std::string& key) const {
  return value<std::int64_t>(key, "a whole number");
}
double GgufFile::real(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found != metadata_.end())
    if (const auto* whole = std::get_if<std::int64_t>(&found->second))
      return static_cast<double>(*whole);
  return value<double>(key, "a number");
}
bool GgufFile::truth(const std::string& key) const {
  return value<bool>(key, "true or false");
}
const std::string& GgufFile::text(const std::string& key) const {
  return value<std::string>(key, "a text");
}
const GgufFile::Numbers& GgufFile::numbers(const std::string& key) const {
  return value<Numbers>(key, "a list of whole numbers");
}
const GgufFile::Reals& GgufFile::reals(const std::string& key) const {
  return value<Reals>(key, "a list of numbers");
}
const GgufFile::Texts& GgufFile::texts(const std::string& key) const {
  return value<Texts>(key, "a list of texts");
}

const GgufTensor& GgufFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  check(found != tensors_.end(), "{} has no tensor {}", path(), name);
  return found->second;
}

void GgufFile::read_rows(const std::string& name, std::int64_t first, std::span<float> out) const {
  const GgufTensor& from = tensor(name);
  const GgmlType& type = *from.type;
  check(
      type.to_floats != nullptr,
      "{}: the tensor {} has the type {}, which cannot be read: F32, F16, BF16, Q8_0, Q4_0, Q4_1, "
      "Q5_0, Q5_1, Q4_K, Q5_K and Q6_K can",
      path(), name, type.name);
  const std::int64_t rows = std::ssize(out) / from.columns;
  check(std::ssize(out) % from.columns == 0 && first >= 0 && first <= from.rows &&
            rows <= from.rows - first,
        "{}: {} elements from row {} of the tensor {}, which has {} rows of {}", path(), out.size(),
        first, name, from.rows, from.columns);
  const std::int64_t row_blocks = from.columns / type.elements;
  const std::byte* block = file_.bytes().data() + from.begin + first * row_blocks * type.bytes;
  float* to = out.data();
  for (std::int64_t i = 0; i < rows * row_blocks; ++i) {
    type.to_floats(block, to);
    block += type.bytes;
    to += type.elements;
  }
}

}  // namespace t2r
