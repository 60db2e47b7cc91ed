#include "data/gguf.h"

#include "data/gguf_tokenizer.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace t2r;
  const FuzzFile file(data, size);
  try {
    const GgufFile gguf(file.path());
    for (const auto& [name, tensor] : gguf.tensors()) {
      if (!tensor.type->to_floats) continue;
      std::vector<float> row(static_cast<std::size_t>(tensor.columns));
      gguf.read_rows(name, tensor.rows - 1, row);
    }
    (void)tokenizer_files(gguf_vocabulary(gguf), "it");
  } catch (const Error&) {
  }
  return 0;
}
