#include "core/train/decoding_speed.h"

#include <algorithm>
#include <chrono>

#include "core/base/log.h"
#include "core/base/random.h"
#include "core/model/decoder.h"

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr std::int64_t kWarmUp = 2, kMinimum = 3;

DecodingSpeed measure_one(const Transformer& model, std::int64_t batch, std::int64_t length,
                          double seconds) {
  // The measured steps end at `length`, and begin not far before it.
  const std::int64_t steps = std::clamp<std::int64_t>(length / 8, kMinimum, 64);
  const std::int64_t prompt = std::max<std::int64_t>(1, length - steps - kWarmUp);
  const std::int64_t vocab = model.config().vocab_size;
  const auto random_token = [&](std::int64_t b, std::int64_t i) {
    return static_cast<std::int32_t>(
        random_bits(7, static_cast<std::uint64_t>(b), static_cast<std::uint64_t>(i))[0] %
        static_cast<std::uint64_t>(vocab));
  };
  Decoder decoder(model, {.batch = batch, .capacity = prompt + kWarmUp + steps});
  std::vector<std::vector<std::int32_t>> prompts(static_cast<std::size_t>(batch));
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < prompt; ++i)
      prompts[static_cast<std::size_t>(b)].push_back(random_token(b, i));
  decoder.prefill(prompts);

  std::vector<std::int32_t> tokens(static_cast<std::size_t>(batch));
  std::vector<double> times;
  const auto start = Clock::now();
  for (std::int64_t i = 0; i < kWarmUp + steps; ++i) {
    for (std::int64_t b = 0; b < batch; ++b)
      tokens[static_cast<std::size_t>(b)] = random_token(b, prompt + i);
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

}  // namespace

std::vector<DecodingSpeed> measure_decoding(const Transformer& model, std::int64_t batch,
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
    speeds.push_back(measure_one(model, batch, length, seconds));
  }
  return speeds;
}

}  // namespace t2r
