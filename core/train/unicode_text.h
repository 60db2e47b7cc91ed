// UTF-8 text as code points, white space and lower case by Unicode's rules: what the translation
// scores need of Unicode besides categories.
#pragma once

#include <string>
#include <string_view>

namespace t2r {

/// The code points of valid UTF-8.
std::u32string decode_utf8(std::string_view text);
void append_utf8(std::string& out, char32_t code_point);

/// White space as Python's str.split() sees it: Unicode's White_Space and the four information
/// separators U+001C to U+001F.
bool is_white_space(char32_t code_point);

/// Lower case of valid UTF-8 as Python's str.lower() gives it: Unicode's full mapping, without a
/// language, where a capital sigma at the end of a word becomes the final form.
std::string lower_case(std::string_view text);

}  // namespace t2r
