// The sentence that a call fails with, for tests of failures.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "core/base/error.h"

namespace t2r {

template <class F>
std::string error_text(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace t2r
