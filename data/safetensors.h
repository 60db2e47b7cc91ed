// Weight files in the safetensors format: an 8-byte header length, a JSON header, then the data.
// Reading trusts nothing; writing is atomic and gives the same bytes each time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "data/mapped_file.h"

namespace t2r {

struct SafetensorsInfo {
  std::string dtype;  // as in the file: F32, F64, F16, BF16, I64, U8, BOOL, ...
  std::vector<std::int64_t> shape;
  std::int64_t elements = 0;
  std::int64_t begin = 0, end = 0;  // bytes in the file
};

/// One mapped file.
class SafetensorsFile {
 public:
  /// Throws one sentence unless the header is sound: length, JSON, types, shapes, and data ranges
  /// that lie inside the file and do not overlap.
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, SafetensorsInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return file_.path(); }
  std::int64_t file_bytes() const { return static_cast<std::int64_t>(file_.bytes().size()); }
  /// The bytes before the data: the header with its length.
  std::span<const std::byte> header() const { return file_.bytes().first(header_bytes_); }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const SafetensorsInfo& info(const std::string& name) const;
  std::span<const std::byte> raw(const std::string& name) const;

  /// Elements [first, first + out.size()) in row-major order, converted from F32, F64, F16 or BF16.
  void read(const std::string& name, std::int64_t first, std::span<float> out) const;
  void read(const std::string& name, std::int64_t first, std::span<double> out) const;
  void read(const std::string& name, std::int64_t first, std::span<bf16> out) const;

 private:
  template <class T>
  void read_as(const std::string& name, std::int64_t first, std::span<T> out) const;

  MappedFile file_;
  std::size_t header_bytes_ = 0;
  std::map<std::string, SafetensorsInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// All weights of a model: one file, or several with model.safetensors.index.json.
class SafetensorsModel {
 public:
  /// `path`: a .safetensors file, an index, or a folder that holds model.safetensors or its index.
  static SafetensorsModel open(const std::string& path);

  std::vector<std::string> names() const;  // sorted
  bool has(const std::string& name) const { return place_.contains(name); }
  /// The file that holds a tensor; throws when no file does.
  const SafetensorsFile& file_of(const std::string& name) const;
  const SafetensorsInfo& info(const std::string& name) const { return file_of(name).info(name); }
  template <class T>
  void read(const std::string& name, std::int64_t first, std::span<T> out) const {
    file_of(name).read(name, first, out);
  }

 private:
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, std::size_t> place_;
};

/// A tensor to write; `data` holds the elements in row-major order.
struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;
};

/// What a file that holds these entries, one after the other, begins with: the length of the header
/// and the header, a multiple of 8 bytes. `data` is not looked at.
std::string safetensors_header(std::span<const SafetensorsEntry> entries,
                               const std::map<std::string, std::string>& metadata = {
                                   {"format", "pt"}});

/// Writes the entries in this order as `path`, atomically.
void write_safetensors(const std::string& path, std::span<const SafetensorsEntry> entries,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace t2r
