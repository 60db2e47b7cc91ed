// Weight files in the GGUF format of llama.cpp, versions 2 and 3, little-endian
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata, then the tensors' names
// and places, then their data. Reading maps the file and trusts nothing.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "data/ggml_blocks.h"
#include "data/mapped_file.h"

namespace t2r {

struct GgufTensor {
  const GgmlType* type = nullptr;
  /// Row-major, as everywhere in t2r: the file lists the dimensions the other way round.
  std::vector<std::int64_t> shape;
  std::int64_t rows = 0, columns = 0;  // columns: the last dimension
  std::int64_t begin = 0, end = 0;     // bytes in the file
};

class GgufFile {
 public:
  /// Integers of all widths are int64 (uint64 values above its range are refused), floats double.
  /// Arrays hold numbers or texts; arrays of arrays are refused.
  using Numbers = std::vector<std::int64_t>;
  using Reals = std::vector<double>;
  using Texts = std::vector<std::string>;
  using Value = std::variant<std::int64_t, double, bool, std::string, Numbers, Reals, Texts>;

  /// Throws one sentence unless the file is sound: version, counts, texts in UTF-8, known types,
  /// tensors that are aligned, lie inside the file and do not overlap.
  explicit GgufFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::uint32_t version() const { return version_; }

  const std::map<std::string, Value>& metadata() const { return metadata_; }
  bool has_value(const std::string& key) const { return metadata_.contains(key); }
  /// The value of a key. Throws one sentence where there is none, or one of another kind; a number
  /// serves as a real too.
  std::int64_t integer(const std::string& key) const;
  double real(const std::string& key) const;
  bool truth(const std::string& key) const;
  const std::string& text(const std::string& key) const;
  const Numbers& numbers(const std::string& key) const;
  const Reals& reals(const std::string& key) const;
  const Texts& texts(const std::string& key) const;

  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const GgufTensor& tensor(const std::string& name) const;  // throws when there is none
  /// Rows [first, first + out.size() / columns) as floats: all but the last dimension count as
  /// rows. `out` has whole rows. Throws for a type that cannot be read, naming it.
  void read_rows(const std::string& name, std::int64_t first, std::span<float> out) const;

 private:
  class Cursor;
  Value read_value(Cursor& in, std::uint32_t type, const std::string& what) const;
  void read_metadata(Cursor& in, std::uint64_t count);
  void read_tensors(Cursor& in, std::uint64_t count);
  void place_tensors(std::uint64_t header_bytes);
  template <class T>
  const T& value(const std::string& key, const char* kind) const;

  MappedFile file_;
  std::uint32_t version_ = 0;
  std::map<std::string, Value> metadata_;
  std::map<std::string, GgufTensor> tensors_;
};

}  // namespace t2r
