// Decoding token by token gives what the parallel form gives; nothing leaks between sequences.
#include "core/model/decoder.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/model/sampling.h"
#include "tests/model/tiny.h"

namespace t2r {
namespace {

using testing::language_models;
using testing::logits_of;
using testing::tiny_model;
using testing::TinyBatch;
using testing::Variant;
using testing::variants;

double difference(const Tensor& logits, const std::vector<double>& expected, std::int64_t row_of_a,
                  std::int64_t row_of_b) {
  double error = 0, size = 0;
  const std::int64_t vocab = logits.shape[1];
  dispatch(logits.dtype, [&]<class T>() {
    for (std::int64_t c = 0; c < vocab; ++c) {
      const double a = static_cast<double>(logits.as<T>()[row_of_a * vocab + c]);
      const double b = expected[static_cast<std::size_t>(row_of_b * vocab + c)];
      error += (a - b) * (a - b);
      size += b * b;
    }
  });
  return std::sqrt(error / size);
}

/// Decodes three sequences of 12 tokens after prompts of different lengths and compares every step.
void compare_with_parallel(const Variant& variant, DType dtype, bool merge, double tolerance) {
  const auto model = tiny_model(variant.config, dtype, TrainedPart::nothing);
  const std::int64_t length = 12;
  TinyBatch data({length, length, length}, variant.config, 21);
  const std::vector<double> expected = logits_of(*model, data.all());
  Decoder decoder(*model, {.batch = 3, .capacity = length, .merge_feature_maps = merge});
  for (int round = 0; round < 2; ++round) {
    const std::vector<std::int64_t> prompt_lengths =
        round == 0 ? std::vector<std::int64_t>{1, 1, 1} : std::vector<std::int64_t>{5, 1, 3};
    std::vector<std::vector<std::int32_t>> prompts;
    for (std::size_t b = 0; b < 3; ++b)
      prompts.emplace_back(
          data.inputs.begin() + static_cast<std::ptrdiff_t>(b) * length,
          data.inputs.begin() + static_cast<std::ptrdiff_t>(b) * length + prompt_lengths[b]);
    decoder.reset();
    Tensor logits = decoder.prefill(prompts);
    for (std::int64_t b = 0; b < 3; ++b)
      EXPECT_LT(difference(logits, expected, b, b * length + decoder.length(b) - 1), tolerance)
          << variant.name << " prefill of " << b;
    while (decoder.length(0) < length) {
      std::vector<std::int32_t> tokens;
      for (std::int64_t b = 0; b < 3; ++b)
        tokens.push_back(data.inputs[static_cast<std::size_t>(b * length + decoder.length(b))]);
      logits = decoder.step(tokens);
      for (std::int64_t b = 0; b < 3; ++b)
        ASSERT_LT(difference(logits, expected, b, b * length + decoder.length(b) - 1), tolerance)
            << variant.name << " sequence " << b << " token " << decoder.length(b);
    }
  }
}

TEST(Decoder, EqualsTheParallelFormInDouble) {
  for (const Variant& variant : language_models())
    compare_with_parallel(variant, DType::f64, false, 1e-10);
}

TEST(Decoder, MergedFeatureMapsEqualUnmergedOnes) {
  for (const Variant& variant : language_models())
    compare_with_parallel(variant, DType::f64, true, 1e-10);
}

TEST(Decoder, EqualsTheParallelFormInNarrowTypes) {
  for (const Variant& variant : language_models()) {
    compare_with_parallel(variant, DType::f32, true, 1e-4);
    compare_with_parallel(variant, DType::bf16, true, 0.1);
  }
}

TEST(Decoder, StateOfSwappedLayersDoesNotGrow) {
  for (const Variant& variant : language_models()) {
    if (static_cast<std::int64_t>(variant.config.linear_layers.size()) != variant.config.layers)
      continue;
    const auto model = tiny_model(variant.config, DType::f32, TrainedPart::nothing);
    Decoder decoder(*model, {.batch = 2, .capacity = 16});
    decoder.prefill({{1, 5, 6, 7}, {2, 7, 5, 6}});  // windows are full
    const std::int64_t first = decoder.state_bytes();
    for (int i = 0; i < 10; ++i) decoder.step(std::vector<std::int32_t>{3, 4});
    EXPECT_EQ(decoder.state_bytes(), first) << variant.name;
  }
}

TEST(Decoder, RefusesWhatDoesNotFit) {
  const auto model = tiny_model(variants()[0].config, DType::f32, TrainedPart::nothing);
  EXPECT_THROW(Decoder(*model, {.batch = 1, .capacity = 17}), Error);  // 16 learned positions
  Decoder decoder(*model, {.batch = 1, .capacity = 2});
  EXPECT_THROW(decoder.prefill({{}}), Error);
  EXPECT_THROW(decoder.prefill({{1, 2, 3}}), Error);
  decoder.prefill({{1, 2}});
  EXPECT_THROW(decoder.step(std::vector<std::int32_t>{1}), Error);
}

TEST(Leakage, LaterTokensAndOtherSegmentsChangeNothing) {
  for (const Variant& variant : language_models()) {
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
    TinyBatch data({6, 8, 5}, variant.config, 4);
    const std::vector<double> before = logits_of(*model, data.all());
    data.inputs[2] = (data.inputs[2] + 1) % 13;    // another segment, before
    data.inputs[11] = (data.inputs[11] + 1) % 13;  // a later token of the same segment
    data.inputs[15] = (data.inputs[15] + 1) % 13;  // another segment, after
    const std::vector<double> after = logits_of(*model, data.all());
    for (std::size_t row = 6; row < 11; ++row)
      for (std::size_t c = 0; c < 13; ++c)
        ASSERT_EQ(before[row * 13 + c], after[row * 13 + c]) << variant.name << " row " << row;
    bool changed = false;
    for (std::size_t c = 0; c < 13; ++c) changed |= before[12 * 13 + c] != after[12 * 13 + c];
    EXPECT_TRUE(changed) << variant.name << ": an earlier token must matter";
  }
}

TEST(Sampling, GreedyTopKTopPAndSeeds) {
  std::vector<float> values{0.1f, 2.0f, 2.0f, -1.0f, 1.9f};
  const Tensor logits(values.data(), Shape{1, 5}, DType::f32);
  EXPECT_EQ(sample_token(logits, 0, {}, 0, 0), 1);  // ties go to the lower id
  std::vector<int> counts(5);
  for (std::uint64_t i = 0; i < 4000; ++i)
    ++counts[static_cast<std::size_t>(sample_token(logits, 0, {.temperature = 1}, 0, i))];
  double total = 0;
  for (float v : values) total += std::exp(v);
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_NEAR(counts[i] / 4000.0, std::exp(values[i]) / total, 0.03) << i;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const auto top2 = sample_token(logits, 0, {.temperature = 1, .top_k = 2}, 0, i);
    EXPECT_TRUE(top2 == 1 || top2 == 2);
    const auto nucleus = sample_token(logits, 0, {.temperature = 1, .top_p = 0.5}, 0, i);
    EXPECT_TRUE(nucleus == 1 || nucleus == 2);
    EXPECT_EQ(sample_token(logits, 0, {.temperature = 1, .seed = 9}, 3, i),
              sample_token(logits, 0, {.temperature = 1, .seed = 9}, 3, i));
  }
  EXPECT_THROW(sample_token(logits, 0, {.temperature = -1}, 0, 0), Error);
  EXPECT_THROW(sample_token(logits, 0, {.temperature = 1, .top_p = 0}, 0, 0), Error);
}

}  // namespace
}  // namespace t2r
