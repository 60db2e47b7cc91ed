// A tokenizer.json; where it loads, hard text is encoded with it and decoded.
#include "core/base/log.h"
#include "data/byte_bpe.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace t2r;
  try {
    const ByteBpe tokenizer(parse_byte_bpe(fuzz_text(data, size), "it"), "it");
    std::vector<std::int32_t> ids;
    for (const char* text :
         {"It's 1984:\n\n  a  \xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80 <|endoftext|> x ", ""})
      tokenizer.encode_to(text, ids);
    for (std::int32_t id : ids) {
      check(id >= 0 && id < tokenizer.vocab_size(), "an id outside");
      (void)tokenizer.decode(id, true);
    }
  } catch (const Error& error) {
    if (std::string_view(error.what()) == "an id outside") __builtin_trap();
  }
  return 0;
}
