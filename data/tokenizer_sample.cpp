#include "data/tokenizer_sample.h"

#include <algorithm>
#include <vector>

#include "core/base/log.h"
#include "core/base/random.h"

namespace t2r {
namespace {

constexpr std::uint64_t kSampleStream = 0x73616D706C652121;  // "sample!!"
constexpr double kMostBytes = 32e6;

}  // namespace

TokenizerSample::TokenizerSample(std::int64_t total_bytes, std::uint64_t seed)
    : total_bytes_(std::max<std::int64_t>(total_bytes, 1)), seed_(seed) {}

void TokenizerSample::add(std::string_view text) {
  const double share = kMostBytes / static_cast<double>(total_bytes_);
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (random_uniform(seed_, kSampleStream, number_++) < share) text_.append(line) += '\n';
  }
}

Tokenizer TokenizerSample::train(const SentencePieceTraining& training,
                                 const std::string& path) const {
  info("training a {} tokenizer of {} entries on {:.1f} MB of text", training.model_type,
       training.vocab_size, static_cast<double>(total_bytes_) * 1e-6);
  const std::vector<std::string_view> texts{text_};
  Tokenizer::train_sentencepiece(texts, training, path);
  Tokenizer tokenizer = Tokenizer::load(path);
  if (tokenizer.vocab_size() < training.vocab_size)
    warn("the text yields a vocabulary of {} entries only, {} were asked for",
         tokenizer.vocab_size(), training.vocab_size);
  return tokenizer;
}

}  // namespace t2r
