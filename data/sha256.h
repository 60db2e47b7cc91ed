// SHA-256 (FIPS 180-4): identifies a tokenizer file.
#pragma once

#include <string>
#include <string_view>

namespace t2r {

/// 64 lower-case hexadecimal digits.
std::string sha256_hex(std::string_view bytes);

}  // namespace t2r
