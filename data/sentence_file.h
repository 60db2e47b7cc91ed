// Text of one sentence a line, plain or gzip, read whole.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace t2r {

/// The lines of a TextFile, ended by \n only (a \r before it is taken off, and a byte order mark
/// at the start of the file); the last one may lack its end. Throws when a line is not UTF-8 or
/// holds NUL bytes, naming it, or when there are none.
std::vector<std::string> read_lines(const std::string& path);

/// The two columns of a file of source<TAB>target lines. Throws, naming the line, where there is
/// not exactly one tab.
void read_tab_separated(const std::string& path, std::vector<std::string>& sources,
                        std::vector<std::string>& targets);

}  // namespace t2r
