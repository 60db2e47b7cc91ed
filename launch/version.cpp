#include "launch/version.h"

#include "t2r_version.h"

namespace t2r {

const char* version() {
  return kVersion;
}

}  // namespace t2r
