// Settings from JSON files of others: a wrong one ends in a sentence that names file and key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "core/base/error.h"

namespace t2r {

/// Reads keys of one object and says which file and key is wrong.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& object, std::string path)
      : object_(object), path_(std::move(path)) {
    check(object.is_object(), "{} holds no JSON object", path_);
  }

  const std::string& path() const { return path_; }
  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }
  const nlohmann::json& at(const char* key) const { return object_[key]; }

  std::int64_t integer(const char* key) const {
    const nlohmann::json& value = require(key);
    check(value.is_number_integer(), "{}: '{}' is {}, not a whole number", path_, key,
          value.dump());
    return value.get<std::int64_t>();
  }
  std::int64_t integer(const char* key, std::int64_t otherwise) const {
    return has(key) ? integer(key) : otherwise;
  }
  double number(const char* key) const {
    const nlohmann::json& value = require(key);
    check(value.is_number(), "{}: '{}' is {}, not a number", path_, key, value.dump());
    return value.get<double>();
  }
  double number(const char* key, double otherwise) const {
    return has(key) ? number(key) : otherwise;
  }
  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    check(object_[key].is_boolean(), "{}: '{}' is {}, not true or false", path_, key,
          object_[key].dump());
    return object_[key].get<bool>();
  }
  std::string text(const char* key) const {
    const nlohmann::json& value = require(key);
    check(value.is_string(), "{}: '{}' is {}, not a text", path_, key, value.dump());
    return value.get<std::string>();
  }
  std::string text(const char* key, const std::string& otherwise) const {
    return has(key) ? text(key) : otherwise;
  }
  /// Throws when `key` asks for something else than the only thing there is.
  void expect_flag(const char* key, bool only) const {
    check(flag(key, only) == only, "{}: '{}' is {}, which t2r does not support", path_, key, !only);
  }

 private:
  const nlohmann::json& require(const char* key) const {
    check(has(key), "{} has no key '{}'", path_, key);
    return object_[key];
  }

  const nlohmann::json& object_;
  std::string path_;
};

}  // namespace t2r
