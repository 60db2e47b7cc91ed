// Throughput of a tokenizer on one thread, in MB of text a second of processor time, and whether
// decoding gives the text back. --ids and --decoded write what came out, for other programs to
// compare with: experiments/tokenizers/compare.py.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <filesystem>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/gguf.h"
#include "data/gguf_tokenizer.h"
#include "data/llama2c.h"
#include "data/tokenizer.h"

namespace {

using namespace t2r;

/// What other programs keep a vocabulary in becomes a tokenizer in `folder`.
Tokenizer load(const std::string& path, std::int64_t vocab_size, const std::string& folder) {
  const std::filesystem::path place(folder);
  if (path.ends_with(".gguf")) {
    const TokenizerFiles files = tokenizer_files(gguf_vocabulary(GgufFile(path)), path);
    write_file_atomically((place / files.name).string(), files.content);
    if (!files.config.empty())
      write_file_atomically((place / "tokenizer_config.json").string(), files.config);
    return Tokenizer::load((place / files.name).string());
  }
  if (path.ends_with(".bin")) {
    const auto pieces = read_llama2c_tokenizer(path, vocab_size);
    const std::string file = (place / "tokenizer.model").string();
    write_file_atomically(file, sentencepiece_model(pieces, {.bos = 1, .eos = 2}, path));
    return Tokenizer::load(file);
  }
  return Tokenizer::load(path);
}

std::vector<std::string_view> cut_at_zeros(std::string_view text) {
  std::vector<std::string_view> documents;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    documents.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return documents;
}

using Ids = std::vector<std::vector<std::int32_t>>;  // of each document

/// Of this thread on a processor, so that other programs on the machine change little.
double processor_seconds() {
  std::timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::vector<std::string_view>& documents,
                         Ids& ids) {
  ids.assign(documents.size(), {});
  const double begin = processor_seconds();
  for (std::size_t i = 0; i < documents.size(); ++i) tokenizer.encode_to(documents[i], ids[i]);
  return processor_seconds() - begin;
}

/// Little-endian int32: of each document the number of its ids, then these.
std::string raw(const Ids& all) {
  std::string bytes;
  for (const auto& ids : all) {
    const auto count = static_cast<std::int32_t>(ids.size());
    bytes.append(reinterpret_cast<const char*>(&count), sizeof(count));
    bytes.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(count));
  }
  return bytes;
}

struct Options {
  std::string tokenizer, text, ids, decoded, folder;
  std::int64_t vocab_size = 32000;
  int repeat = 5;
};

void run(const Options& options) {
  const std::string text = read_file(options.text, std::int64_t{1} << 32);
  const auto documents = cut_at_zeros(text);
  std::vector<double> seconds;
  Ids ids;
  std::string decoded;
  std::size_t tokens = 0, changed = 0;
  for (int i = 0; i < std::max(options.repeat, 1); ++i) {
    // Loaded anew: what it remembers of the text begins empty.
    const Tokenizer tokenizer = load(options.tokenizer, options.vocab_size, options.folder);
    seconds.push_back(seconds_to_encode(tokenizer, documents, ids));
    if (i > 0) continue;
    for (std::size_t d = 0; d < documents.size(); ++d) {
      const std::string back = tokenizer.decode(ids[d]);
      tokens += ids[d].size();
      changed += back != documents[d];
      if (!options.decoded.empty()) decoded += (d > 0 ? std::string(1, '\0') : "") + back;
    }
  }
  std::sort(seconds.begin(), seconds.end());
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  fmt::print(
      "{{\"megabytes\": {:.3f}, \"documents\": {}, \"tokens\": {}, \"decoded_differently\": {}, "
      "\"megabytes_per_second\": {:.2f}, \"slowest\": {:.2f}, \"fastest\": {:.2f}}}\n",
      megabytes, documents.size(), tokens, changed, megabytes / seconds[seconds.size() / 2],
      megabytes / seconds.back(), megabytes / seconds.front());
  if (!options.ids.empty()) write_file_atomically(options.ids, raw(ids));
  if (!options.decoded.empty()) write_file_atomically(options.decoded, decoded);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Encodes a text with a tokenizer, on one thread: MB/s, median of several times");
  Options options;
  app.add_option("--tokenizer", options.tokenizer,
                 "tokenizer.json, tokenizer.model, a model's .gguf or llama2.c's tokenizer.bin")
      ->required();
  app.add_option("--text", options.text, "UTF-8; NUL bytes end a document")->required();
  app.add_option("--vocab-size", options.vocab_size, "of a tokenizer.bin");
  app.add_option("--repeat", options.repeat);
  app.add_option("--ids", options.ids, "file to write: int32, each document's count and ids");
  app.add_option("--decoded", options.decoded, "file to write: the documents, decoded");
  app.add_option("--folder", options.folder, "for the tokenizer out of a .gguf or .bin")
      ->default_val(".");
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "tokenizer_speed: {}\n", error.what());
    return 1;
  }
  return 0;
}
