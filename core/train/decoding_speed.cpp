#include "core/train/decoding_speed.h"

#include <algorithm>
#include <chrono>

#include "core/base/log.h"
#include "core/base/random.h"
#include "core/model/decoder.h"
#include "core/model/translation_decoder.h"
#include "kernels/top_log_probabilities.h"

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr std::int64_t kWarmUp = 2, kMinimum = 3;
constexpr std::int64_t kBeams = 5;  // of translations, the paper's

std::int32_t random_token(std::int64_t b, std::int64_t i, std::int64_t vocab) {
  return static_cast<std::int32_t>(
      random_bits(7, static_cast<std::uint64_t>(b), static_cast<std::uint64_t>(i))[0] %
      static_cast<std::uint64_t>(vocab));
}

DecodingSpeed measure_one(const Transformer& model, std::int64_t batch, std::int64_t length,
                          double seconds) {
  // The measured steps end at `length`, and begin not far before it.
  const std::int64_t steps = std::clamp<std::int64_t>(length / 8, kMinimum, 64);
  const std::int64_t prompt = std::max<std::int64_t>(1, length - steps - kWarmUp);
  const std::int64_t vocab = model.config().vocab_size;
  Decoder decoder(model, {.batch = batch, .capacity = prompt + kWarmUp + steps});
  std::vector<std::vector<std::int32_t>> prompts(static_cast<std::size_t>(batch));
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < prompt; ++i)
      prompts[static_cast<std::size_t>(b)].push_back(random_token(b, i, vocab));
  decoder.prefill(prompts);

  std::vector<std::int32_t> tokens(static_cast<std::size_t>(batch));
  std::vector<double> times;
  const auto start = Clock::now();
  for (std::int64_t i = 0; i < kWarmUp + steps; ++i) {
    for (std::int64_t b = 0; b < batch; ++b)
      tokens[static_cast<std::size_t>(b)] = random_token(b, prompt + i, vocab);
    const auto begin = Clock::now();
    decoder.step(tokens);
    if (i >= kWarmUp) times.push_back(seconds_since(begin));
    if (i + 1 >= kWarmUp + kMinimum && seconds_since(start) > seconds) break;
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  DecodingSpeed speed;
  speed.length = length;
  speed.batch = batch;
  speed.seconds_per_token = times[times.size() / 2];
  speed.tokens_per_second = static_cast<double>(batch) / speed.seconds_per_token;
  speed.state_bytes = decoder.state_bytes();
  return speed;
}

/// `batch` sources and targets of `length` tokens with kBeams hypotheses each: what a beam search
/// does to the decoder, on average over the whole translation.
DecodingSpeed measure_translation(Transformer& model, std::int64_t batch, std::int64_t length,
                                  double seconds) {
  const ModelConfig& config = model.config();
  TokenRowsBuffer sources;
  for (std::int64_t b = 0; b < batch; ++b) {
    std::vector<std::int32_t> source;
    for (std::int64_t i = 0; i < length; ++i)
      source.push_back(random_token(b, i, config.source_vocabulary()));
    sources.add(source);
  }
  TranslationDecoder decoder(model);
  DecodingSpeed speed;
  double total = 0;
  int rounds = 0;
  for (; rounds < 3 && (rounds == 0 || total < seconds); ++rounds) {
    const auto start = Clock::now();
    decoder.begin(sources.rows(), kBeams, length);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(decoder.rows()), 0);
    std::vector<std::int64_t> parents(tokens.size());
    for (std::int64_t t = 0; t < length; ++t) {
      const auto tops = top_log_probabilities(Queue{}, decoder.step(tokens), kBeams + 1, 0);
      for (std::size_t r = 0; r < tokens.size(); ++r) {
        tokens[r] = tops[r].tokens[r % kBeams];
        // In every step one hypothesis in five gives way to a child of another.
        parents[r] = static_cast<std::int64_t>(r % kBeams == kBeams - 1 ? r - 1 : r);
      }
      decoder.take(parents);
    }
    total += seconds_since(start);
  }
  speed.length = length;
  speed.batch = batch;
  speed.seconds_per_token = total / static_cast<double>(rounds * length);
  speed.tokens_per_second = static_cast<double>(batch) / speed.seconds_per_token;
  speed.state_bytes = decoder.state_bytes();
  return speed;
}

}  // namespace

std::vector<DecodingSpeed> measure_decoding(Transformer& model, std::int64_t batch,
                                            const std::vector<std::int64_t>& lengths,
                                            double seconds) {
  const ModelConfig& config = model.config();
  std::vector<DecodingSpeed> speeds;
  for (std::int64_t length : lengths) {
    check_usage(length >= 1, "cannot measure decoding at length {}: it must be at least 1", length);
    const std::int64_t end = std::max(length, 1 + kWarmUp + kMinimum);
    if (config.positions != Positions::rotary && end > config.max_positions) {
      warn("decoding at length {} is left out: the model has {} positions", length,
           config.max_positions);
      continue;
    }
    speeds.push_back(config.encoder_decoder() ? measure_translation(model, batch, length, seconds)
                                              : measure_one(model, batch, length, seconds));
  }
  return speeds;
}

}  // namespace t2r
