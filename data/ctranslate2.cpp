#include "data/ctranslate2.h"

#include <cstring>

#include "core/base/error.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

constexpr std::uint32_t kVersion = 2;
constexpr std::uint8_t kMaxRank = 8;

/// Reads little-endian fields one after the other.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : path_(file.path()), rest_(file.bytes()) {}

  std::span<const std::byte> take(std::size_t bytes, const std::string& what) {
    check(bytes <= rest_.size(), "{} ends inside {}: it is cut off or damaged", path_, what);
    const auto taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }
  template <class T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  /// The length counts a closing NUL.
  std::string text(const std::string& what) {
    const auto length = number<std::uint16_t>(what);
    const auto bytes = take(length, what);
    std::string value(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    check(!value.empty() && value.find('\0') == value.size() - 1 && find_invalid_utf8(value) < 0,
          "{}: {} is not a text that ends with a NUL byte", path_, what);
    value.pop_back();
    return value;
  }
  std::size_t left() const { return rest_.size(); }

 private:
  std::string path_;
  std::span<const std::byte> rest_;
};

}  // namespace

CTranslate2File::CTranslate2File(const std::string& path) : file_(path) {
  Cursor in(file_);
  const auto version = in.number<std::uint32_t>("the header");
  check(version == kVersion,
        "{} is no CTranslate2 model of binary version {}: it begins with {}; convert the model "
        "from its original",
        path, kVersion, version);
  specification_ = in.text("the header");
  revision_ = in.number<std::uint32_t>("the header");
  const auto count = in.number<std::uint32_t>("the header");
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::string name = in.text(fmt::format("the name of variable {}", i + 1));
    const std::string what = "the variable " + name;
    const auto rank = in.number<std::uint8_t>(what);
    check(rank <= kMaxRank, "{}: {} has {} dimensions, more than {}", path, what, rank, kMaxRank);
    Variable variable;
    std::int64_t elements = 1;
    for (std::uint8_t d = 0; d < rank; ++d) {
      variable.shape.push_back(in.number<std::uint32_t>(what));
      check(!__builtin_mul_overflow(elements, variable.shape.back(), &elements),
            "{}: {} has a shape that is too large for any file", path, what);
    }
    const auto item_size = in.number<std::uint8_t>(what);
    check(item_size == sizeof(float),
          "{}: {} has values of {} bytes: only 32-bit floating point can be imported", path, what,
          item_size);
    const auto items = in.number<std::uint32_t>(what);
    check(items == elements, "{}: {} has {} values, but its shape asks for {}", path, what, items,
          elements);
    variable.data = in.take(std::size_t{items} * sizeof(float), what);
    check(variables_.emplace(name, std::move(variable)).second, "{} holds {} twice", path, what);
  }
  check(in.left() == 0, "{} has {} bytes after its last variable: it is damaged", path, in.left());
}

std::vector<std::string> CTranslate2File::names() const {
  std::vector<std::string> names;
  for (const auto& [name, variable] : variables_) names.push_back(name);
  return names;
}

const CTranslate2File::Variable& CTranslate2File::variable(const std::string& name) const {
  const auto found = variables_.find(name);
  check(found != variables_.end(), "{} has no variable {}", path(), name);
  return found->second;
}

const std::vector<std::int64_t>& CTranslate2File::shape(const std::string& name) const {
  return variable(name).shape;
}

std::vector<float> CTranslate2File::values(const std::string& name) const {
  const auto data = variable(name).data;
  std::vector<float> values(data.size() / sizeof(float));
  std::memcpy(values.data(), data.data(), data.size());
  return values;
}

}  // namespace t2r
