// Weight files of CTranslate2 (https://github.com/OpenNMT/CTranslate2), binary version 2: a
// header, then variables one after the other. Reading maps the file and trusts nothing.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/mapped_file.h"

namespace t2r {

class CTranslate2File {
 public:
  /// `path`: model.bin. Throws one sentence unless it is sound to its last byte: version, names,
  /// shapes, 32-bit floating-point values that lie inside the file.
  explicit CTranslate2File(const std::string& path);

  const std::string& path() const { return file_.path(); }
  /// The kind of model, such as "TransformerBase".
  const std::string& specification() const { return specification_; }
  std::int64_t revision() const { return revision_; }
  std::vector<std::string> names() const;  // sorted
  bool has(const std::string& name) const { return variables_.contains(name); }
  /// Throws when there is no such variable, here and below.
  const std::vector<std::int64_t>& shape(const std::string& name) const;
  /// All values, in row-major order.
  std::vector<float> values(const std::string& name) const;

 private:
  struct Variable {
    std::vector<std::int64_t> shape;
    std::span<const std::byte> data;
  };
  const Variable& variable(const std::string& name) const;

  MappedFile file_;
  std::string specification_;
  std::int64_t revision_ = 0;
  std::map<std::string, Variable> variables_;
};

}  // namespace t2r
