// Writes weight files of CTranslate2, binary version 2, for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace t2r {

struct CTranslate2Variable {
  std::string name;
  std::vector<std::uint32_t> shape;
  std::vector<float> values;
};

template <class T>
void append_number(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

inline void append_text(std::string& out, const std::string& text) {
  append_number(out, static_cast<std::uint16_t>(text.size() + 1));
  out.append(text.c_str(), text.size() + 1);
}

inline void append_variable(std::string& out, const CTranslate2Variable& variable) {
  append_text(out, variable.name);
  append_number(out, static_cast<std::uint8_t>(variable.shape.size()));
  for (std::uint32_t dim : variable.shape) append_number(out, dim);
  append_number(out, std::uint8_t{4});
  append_number(out, static_cast<std::uint32_t>(variable.values.size()));
  for (float value : variable.values) append_number(out, value);
}

inline std::string ctranslate2_header(const std::string& specification, std::uint32_t variables) {
  std::string out;
  append_number(out, std::uint32_t{2});
  append_text(out, specification);
  append_number(out, std::uint32_t{2});
  append_number(out, variables);
  return out;
}

inline std::string ctranslate2_file(const std::string& specification,
                                    const std::vector<CTranslate2Variable>& variables) {
  std::string out = ctranslate2_header(specification, static_cast<std::uint32_t>(variables.size()));
  for (const CTranslate2Variable& variable : variables) append_variable(out, variable);
  return out;
}

}  // namespace t2r
