// The version of this program.
#pragma once

namespace t2r {

/// "0.1.0 (COMMIT)": in a file of its own, so that a commit recompiles nothing else.
const char* version();

}  // namespace t2r
