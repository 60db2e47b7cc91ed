// Plain tables for the terminal.
#pragma once

#include <string>
#include <vector>

namespace t2r {

/// Columns padded to their widest cell (counted in characters): the first to the left, the others
/// to the right. The first row is the head.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace t2r
