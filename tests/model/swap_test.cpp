// The swap, configurations, parameters and operation counts.
#include "core/model/swap.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/model/cost.h"
#include "tests/model/tiny.h"

namespace t2r {
namespace {

using testing::tiny_model;
using testing::TinyBatch;
using testing::Variant;
using testing::variants;
using testing::Workspace;
using Layers = std::vector<std::int64_t>;

TEST(LayersToKeep, CountsFromTheTop) {
  EXPECT_EQ(layers_to_keep("none", 8), Layers{});
  EXPECT_EQ(layers_to_keep("every-4th", 8), (Layers{0, 4}));
  EXPECT_EQ(layers_to_keep("every-4th", 10), (Layers{2, 6}));
  EXPECT_EQ(layers_to_keep("every-2nd", 5), (Layers{1, 3}));
  EXPECT_EQ(layers_to_keep("3,0,3", 4), (Layers{0, 3}));
  for (const char* bad : {"every-0th", "every-9th", "every-th", "4", "-1", "1,,2", "a", "1,"})
    EXPECT_THROW(layers_to_keep(bad, 4), Error) << bad;
}

TEST(SwappedConfig, ChecksTheFeatureSize) {
  const ModelConfig config = gpt2_config(13, 4, 12, 3, 16);
  EXPECT_THROW(swapped_config(config, {.feature_size = 0}, {}), Error);
  EXPECT_THROW(swapped_config(config, {.feature_map = FeatureMap::rfa, .feature_size = 5}, {}),
               Error);
  EXPECT_THROW(swapped_config(config, {.feature_map = FeatureMap::elu, .feature_size = 5}, {}),
               Error);
  EXPECT_THROW(swapped_config(config, {}, {0, 1, 2, 3}), Error);
  EXPECT_EQ(swapped_config(config, {.feature_map = FeatureMap::elu, .feature_size = 0}, {})
                .linear.feature_size,
            4);
  EXPECT_EQ(swapped_config(config, {}, {1}).linear_layers, (Layers{0, 2, 3}));
}

TEST(Transfer, CopiesTheSharedAndDrawsTheFresh) {
  const ModelConfig config = gpt2_config(13, 2, 12, 3, 16);
  const auto teacher = tiny_model(config, DType::f32, TrainedPart::nothing);
  const ModelConfig swapped =
      swapped_config(config, {.feature_size = 5, .decay = Decay::learned}, {});
  Transformer model(swapped, DType::f32, TrainedPart::nothing),
      again(swapped, DType::f32, TrainedPart::nothing);
  EXPECT_EQ(transfer_weights(*teacher, model, 3), 2 * 3);
  transfer_weights(*teacher, again, 3);
  for (int i = 0; i < model.params().count(); ++i) {
    const ParamId id{i}, source = teacher->params().find(model.params().spec(id).name);
    const Tensor value = model.params().value(id);
    EXPECT_EQ(std::memcmp(value.data, again.params().value(id).data,
                          static_cast<std::size_t>(value.bytes())),
              0);
    if (source) {
      EXPECT_EQ(std::memcmp(value.data, teacher->params().value(source).data,
                            static_cast<std::size_t>(value.bytes())),
                0);
    }
  }
  const Tensor phi =
      model.params().value(model.params().find("model.layers.1.self_attn.phi.weight"));
  EXPECT_EQ(phi.shape, (Shape{3, 5, 4}));
  float most = 0, least = 0;
  for (std::int64_t i = 0; i < phi.size(); ++i) {
    most = std::max(most, phi.as<float>()[i]);
    least = std::min(least, phi.as<float>()[i]);
  }
  EXPECT_LE(most, 0.5f);  // U(-1/sqrt(d), 1/sqrt(d)), d = 4
  EXPECT_GE(least, -0.5f);
  EXPECT_GT(most - least, 0.7f);
}

TEST(Cost, CountsParametersAsTheModelHasThem) {
  for (const Variant& variant : variants()) {
    const Transformer model(variant.config, DType::f32, TrainedPart::nothing);
    EXPECT_EQ(parameter_count(variant.config), model.params().parameter_count()) << variant.name;
  }
}

TEST(Cost, TrainingIsAboutSixOperationsAParameterAndToken) {
  const ModelConfig config = gpt2_config(8192, 6, 512, 8, 256);
  const std::vector<std::int64_t> offsets{0, 256, 512};
  const double flops = training_flops(config, {2, offsets.data()});
  const double simple = 6.0 * static_cast<double>(parameter_count(config) - 256 * 512) * 512;
  EXPECT_GT(flops, simple);
  EXPECT_LT(flops, 1.15 * simple);
}

TEST(Cost, DecodingOfSwappedModelsIsFlatInLength) {
  const ModelConfig config = gpt2_config(100, 4, 64, 4, 10000);
  const ModelConfig swapped = swapped_config(config, {.feature_size = 32}, {});
  EXPECT_EQ(decoding_flops(swapped, 10), decoding_flops(swapped, 9000));
  EXPECT_EQ(decoding_state_bytes(swapped, 10, 4), decoding_state_bytes(swapped, 9000, 4));
  EXPECT_GT(decoding_flops(config, 9000), 5 * decoding_flops(config, 10));
  EXPECT_EQ(decoding_state_bytes(config, 1000, 4), 2.0 * 4 * 64 * 4 * 1000);
}

TEST(Params, GluedPartsReadAsOneMatrix) {
  ParamStore params{TrainedPart::all};
  const ParamId a = params.add({.name = "a", .shape = Shape{3, 5}, .init = Init::normal});
  const ParamId b =
      params.add({.name = "b", .shape = Shape{2, 5}, .init = Init::normal, .glued = true});
  const ParamId c = params.add({.name = "c", .shape = Shape{4, 5}, .init = Init::normal});
  params.allocate(DType::f64);
  params.initialize(1);
  const Tensor glued = params.value(a, b);
  EXPECT_EQ(glued.shape, (Shape{5, 5}));
  EXPECT_EQ(glued.as<double>()[15], params.value(b).as<double>()[0]);
  EXPECT_THROW(params.value(b, c), Error);
  EXPECT_THROW(params.add({.name = "late", .shape = Shape{1}}), Error);
  ParamStore twice;
  twice.add({.name = "a", .shape = Shape{1}});
  EXPECT_THROW(twice.add({.name = "a", .shape = Shape{1}}), Error);
}

TEST(Batches, ASequenceBeyondLearnedPositionsIsRefused) {
  const auto model = tiny_model(variants()[0].config, DType::f32, TrainedPart::all);
  TinyBatch data({17}, variants()[0].config, 1);
  Workspace work;
  EXPECT_THROW(model->train_step(work.step, data.all(), 1, 0, nullptr), Error);
}

TEST(Batches, AnEmptyBatchDoesNothing) {
  const auto model = tiny_model(variants()[0].config, DType::f32, TrainedPart::all);
  Workspace work;
  EXPECT_EQ(model->train_step(work.step, Batch{}, 1, 0, nullptr).rows, 0);
  EXPECT_EQ(model->evaluate(work.step, Batch{}).rows, 0);
}

TEST(Config, RefusesImpossibleSizes) {
  EXPECT_THROW(gpt2_config(13, 2, 12, 5, 16), Error);
  EXPECT_THROW(gpt2_config(0, 2, 12, 3, 16).validate(), Error);
  ModelConfig config = llama_config(13, 2, 16, 4, 3, 16);
  EXPECT_THROW(config.validate(), Error);
  config = llama_config(13, 2, 12, 4, 2, 16);  // head_dim 3 with rotary
  EXPECT_THROW(config.validate(), Error);
  EXPECT_THROW(parse_feature_map("t3r"), Error);
}

}  // namespace
}  // namespace t2r
