#include "data/safetensors.h"

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace t2r;
  const FuzzFile file(data, size);
  try {
    const SafetensorsFile weights(file.path());
    for (const auto& [name, tensor] : weights.tensors()) {
      std::vector<float> all(static_cast<std::size_t>(tensor.elements));
      try {
        weights.read(name, 0, all);
      } catch (const Error&) {  // a type without weights
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
