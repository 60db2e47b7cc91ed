// Writes GGUF files, sound and unsound ones, for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace t2r {

template <class T>
std::string number_bytes(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

inline std::string gguf_text(const std::string& text) {
  return number_bytes<std::uint64_t>(text.size()) + text;
}

/// A key and its value: `type` as in the file, `value` its bytes.
inline std::string gguf_key(const std::string& key, std::uint32_t type, const std::string& value) {
  return gguf_text(key) + number_bytes(type) + value;
}

inline std::string gguf_texts(const std::string& key, const std::vector<std::string>& texts) {
  std::string value = number_bytes<std::uint32_t>(8) + number_bytes<std::uint64_t>(texts.size());
  for (const std::string& text : texts) value += gguf_text(text);
  return gguf_key(key, 9, value);
}

template <class T>
std::string gguf_numbers(const std::string& key, std::uint32_t type,
                         const std::vector<T>& numbers) {
  std::string value = number_bytes(type) + number_bytes<std::uint64_t>(numbers.size());
  for (T number : numbers) value += number_bytes(number);
  return gguf_key(key, 9, value);
}

struct GgufTensorEntry {
  std::string name;
  std::vector<std::uint64_t> dimensions;  // in the order of the file: columns first
  std::uint32_t type;
  std::uint64_t offset;
};

/// `keys`: one string each, of gguf_key and the like.
inline std::string gguf_file(const std::vector<std::string>& keys,
                             const std::vector<GgufTensorEntry>& tensors, const std::string& data,
                             std::uint32_t version = 3, std::size_t alignment = 32) {
  std::string out = "GGUF" + number_bytes(version) + number_bytes<std::uint64_t>(tensors.size()) +
                    number_bytes<std::uint64_t>(keys.size());
  for (const std::string& key : keys) out += key;
  for (const GgufTensorEntry& tensor : tensors) {
    out +=
        gguf_text(tensor.name) + number_bytes(static_cast<std::uint32_t>(tensor.dimensions.size()));
    for (std::uint64_t size : tensor.dimensions) out += number_bytes(size);
    out += number_bytes(tensor.type) + number_bytes(tensor.offset);
  }
  out.resize((out.size() + alignment - 1) / alignment * alignment);
  return out + data;
}

}  // namespace t2r
