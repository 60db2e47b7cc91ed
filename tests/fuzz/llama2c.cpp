#include "data/llama2c.h"

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace t2r;
  const FuzzFile file(data, size);
  try {
    const Llama2cFile weights(file.path());
    for (const std::string& name : weights.names()) {
      std::int64_t elements = 1;
      for (std::int64_t dim : weights.shape(name)) elements *= dim;
      std::vector<float> all(static_cast<std::size_t>(elements));
      weights.read(name, 0, all);
    }
  } catch (const Error&) {
  }
  try {
    const auto pieces = read_llama2c_tokenizer(file.path(), 3);
    (void)sentencepiece_model(pieces, {.bos = 1, .eos = 2}, "it");
  } catch (const Error&) {
  }
  return 0;
}
