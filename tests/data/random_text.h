// Made-up text with words, lines and paragraphs, the same for a given seed.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "core/base/random.h"

namespace t2r {

inline void append_utf8(std::string& text, std::uint32_t c) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xC0 | (c >> 6));
    tail(0);
  } else if (c < 0x10000) {
    text += static_cast<char>(0xE0 | (c >> 12));
    tail(6), tail(0);
  } else {
    text += static_cast<char>(0xF0 | (c >> 18));
    tail(12), tail(6), tail(0);
  }
}

/// `words` words of 1-8 letters, the short numbers far more often than the long ones; lines of
/// about ten words, paragraphs (a blank line between) of about four lines.
inline std::string random_text(std::uint64_t seed, int words) {
  std::string text;
  for (int i = 0; i < words; ++i) {
    const auto number = static_cast<std::uint64_t>(
        std::exp(7.0 * random_uniform(seed, 0, static_cast<std::uint64_t>(i))));
    const auto letters = random_bits(1, 1, number);
    for (std::uint32_t letter = 0; letter <= letters[0] % 8; ++letter)
      append_utf8(text, letters[1] % 50 == 0 ? 0xE4 : 'a' + (letters[2] >> (2 * letter)) % 26);
    const auto after = random_bits(seed, 2, static_cast<std::uint64_t>(i))[0] % 40;
    text += after == 0 ? "\n\n" : after < 4 ? "\n" : " ";
  }
  return text + "end\n";
}

}  // namespace t2r
