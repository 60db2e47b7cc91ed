// MPI's error codes as sentences.
#pragma once

#include <mpi.h>

#include <string>

#include "core/base/error.h"

namespace t2r {

/// Throws unless `code`, returned by the MPI function `what`, says success.
inline void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail("{} failed: {}", what, std::string(text, static_cast<std::size_t>(length)));
}

}  // namespace t2r
