#include "data/prepare_folder.h"

#include <algorithm>
#include <filesystem>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/dataset.h"

namespace t2r {

void remove_dataset_files(const std::string& folder) {
  namespace fs = std::filesystem;
  fs::remove(fs::path(folder) / kDatasetFile);
  sync_folder(folder);
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    name.resize(std::min(name.find(".tmp-"), name.size()));  // of a writer that was killed
    bool ours = name == kDatasetFile || name == "tokenizer.model" || name == "bytes.json" ||
                name == "tokenizer.json" || name == "tokenizer_config.json" ||
                name == "source.tokenizer.model";
    for (const char* split : {"train", "valid", "test"})
      ours = ours || (name.starts_with(fmt::format("{}-", split)) && name.ends_with(".h5"));
    if (ours && entry.is_regular_file()) fs::remove(entry.path());
  }
}

}  // namespace t2r
