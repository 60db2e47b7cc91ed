#include "data/ctranslate2.h"

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace t2r;
  const FuzzFile file(data, size);
  try {
    const CTranslate2File weights(file.path());
    for (const std::string& name : weights.names()) {
      std::int64_t elements = 1;
      for (std::int64_t dim : weights.shape(name)) elements *= dim;
      if (std::ssize(weights.values(name)) != elements) __builtin_trap();
    }
  } catch (const Error&) {
  }
  return 0;
}
