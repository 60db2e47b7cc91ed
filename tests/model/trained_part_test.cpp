// Training parts of a model: the same gradients as when all is trained, and none of the rest.
#include "core/model/trained_part.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/model/cost.h"
#include "core/model/swap.h"
#include "kernels/elementwise.h"
#include "tests/model/tiny.h"

namespace t2r {
namespace {

using testing::tiny_model;
using testing::TinyBatch;
using testing::Variant;
using testing::variants;
using testing::Workspace;

/// A model with `trained` gradients and the values of `like`.
std::unique_ptr<Transformer> with_values_of(const Transformer& like, const TrainedPart& trained) {
  auto model = std::make_unique<Transformer>(like.config(), like.params().dtype(), trained);
  transfer_weights(like, *model, 1);
  return model;
}

double loss_of(Transformer& model, const Batch& batch) {
  Workspace work;
  fill(Queue{}, model.params().all_grads(), 0);
  return model.train_step(work.step, batch, 1.0 / 20, 0.1, nullptr).loss / 20;
}

TrainedPart lora(std::int64_t rank, const std::string& targets) {
  TrainedPart part = TrainedPart::lora;
  part.lora_options = {rank, 3.0 * static_cast<double>(rank), parse_lora_targets(targets)};
  return part;
}

bool in_swapped_attention(const ModelConfig& config, const std::string& name) {
  if (name.find("_attn.") == std::string::npos || name.find("encoder.layers") != std::string::npos)
    return false;
  for (const std::int64_t layer : config.linear_layers)
    if (name.find("layers." + std::to_string(layer) + ".") != std::string::npos) return true;
  return false;
}

TEST(TrainedPart, GradientsAreThoseOfTheWholeAndOfNoMore) {
  for (const Variant& variant : variants()) {
    if (variant.config.linear_layers.empty()) continue;
    SCOPED_TRACE(variant.name);
    const auto whole = tiny_model(variant.config, DType::f64, TrainedPart::all);
    TinyBatch data({5, 1, 7}, variant.config, 11);
    const double loss = loss_of(*whole, data.all());
    for (const TrainedPart::Kind kind : {TrainedPart::attention, TrainedPart::feature_maps}) {
      const TrainedPart part = kind;
      const auto model = with_values_of(*whole, part);
      if (model->params().gradient_span() == 0) continue;  // elu without decay
      EXPECT_EQ(loss_of(*model, data.all()), loss);
      const ParamStore& params = model->params();
      std::int64_t trained = 0;
      for (int p = 0; p < params.count(); ++p) {
        const ParamSpec& spec = params.spec(ParamId{p});
        const bool map = spec.name.find(".phi.") != std::string::npos ||
                         spec.name.ends_with(".decay") || spec.name.ends_with(".window_gate");
        const bool wanted =
            spec.trainable && (part.kind == TrainedPart::feature_maps
                                   ? map
                                   : in_swapped_attention(variant.config, spec.name));
        EXPECT_EQ(params.trained(ParamId{p}), wanted) << spec.name;
        if (!params.trained(ParamId{p})) continue;
        trained += spec.shape.size();
        const Tensor mine = params.grad(ParamId{p}), all = whole->params().grad(ParamId{p});
        for (std::int64_t i = 0; i < mine.size(); ++i)
          ASSERT_NEAR(mine.as<double>()[i], all.as<double>()[i], 1e-14) << spec.name;
      }
      EXPECT_EQ(params.trained_count(), trained);
      EXPECT_LT(params.all_grads().bytes(), 8 * (trained + 32 * params.count()));
    }
  }
}

TEST(TrainedPart, GradientsLieAsValuesDoInForwardOrder) {
  const ModelConfig config =
      swapped_config(testing::language_models()[0].config, {.feature_size = 4}, {});
  for (const TrainedPart& part :
       {TrainedPart(TrainedPart::all), TrainedPart(TrainedPart::feature_maps), lora(3, "q,v,fc")}) {
    const Transformer model(config, DType::f32, part);
    const ParamStore& params = model.params();
    std::int64_t last = 0;
    for (int p = 0; p < params.count(); ++p) {
      const ParamId id{p};
      EXPECT_GE(params.gradient_offset(id), last);
      last = params.gradient_offset(id);
      EXPECT_EQ(params.offset(id) < params.gradient_span(), params.trained(id));
      if (params.trained(id)) {
        EXPECT_EQ(params.gradient_offset(id), params.offset(id));
      }
    }
    for (const std::int64_t offset : model.ready_offsets())
      EXPECT_LE(offset, params.gradient_span());
  }
}

TEST(Lora, BeginsAsTheModelWasAndHasRightGradients) {
  for (const Variant& variant : variants()) {
    SCOPED_TRACE(variant.name);
    const auto whole = tiny_model(variant.config, DType::f64, TrainedPart::all);
    TinyBatch data({5, 1, 7}, variant.config, 11);
    const Batch batch = data.all();
    const double loss = loss_of(*whole, batch);
    for (const char* targets : {"q,k,v,o,fc", "v,up"}) {
      const auto model = with_values_of(*whole, lora(2, targets));
      ParamStore& params = model->params();
      EXPECT_NEAR(loss_of(*model, batch), loss, 1e-13);
      // B away from zero, where A would have no gradient.
      double* values = params.all_values().as<double>();
      for (int p = 0; p < params.count(); ++p)
        if (params.spec(ParamId{p}).name.ends_with(".lora_b"))
          for (std::int64_t i = 0; i < params.value(ParamId{p}).size(); ++i)
            params.value(ParamId{p}).as<double>()[i] =
                0.1 *
                random_normal(3, static_cast<std::uint64_t>(p), static_cast<std::uint64_t>(i));
      params.touch();
      loss_of(*model, batch);
      const Tensor grads = params.all_grads();
      const std::vector<double> analytic(grads.as<double>(), grads.as<double>() + grads.size());
      for (int p = 0; p < params.count(); ++p) {
        if (!params.trained(ParamId{p})) continue;
        const std::int64_t begin = params.offset(ParamId{p});
        const std::int64_t size = params.spec(ParamId{p}).shape.size();
        for (std::int64_t i = begin; i < begin + size; i += 13) {
          const double kept = values[i];
          const auto at = [&](double h) {
            values[i] = kept + h;
            params.touch();
            return loss_of(*model, batch);
          };
          const double numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
          values[i] = kept;
          params.touch();
          ASSERT_NEAR(analytic[static_cast<std::size_t>(i)], numeric,
                      1e-6 * std::max(1.0, std::abs(numeric)))
              << params.spec(ParamId{p}).name << " element " << i - begin;
        }
      }
    }
  }
}

TEST(TrainedPart, CostsLess) {
  const ModelConfig config =
      swapped_config(llama_config(1000, 4, 64, 4, 2, 64), {.feature_size = 16}, {0, 1});
  const std::int64_t offsets[2] = {0, 64};
  const Segments one{1, offsets};
  const auto flops = [&](const TrainedPart& part) { return training_flops(config, one, {}, part); };
  EXPECT_LT(flops(TrainedPart::feature_maps), flops(TrainedPart::attention));
  EXPECT_LT(flops(TrainedPart::attention), 0.7 * flops(TrainedPart::all));
  EXPECT_LT(flops(lora(1, "q")), flops(lora(8, "q,k,v,o,fc")));
  EXPECT_LT(flops(lora(4, "q,k,v,o")), 0.8 * flops(TrainedPart::all));
  EXPECT_GT(flops(TrainedPart::feature_maps), forward_flops(config, one));
}

TEST(TrainedPart, NamesAreReadAndRefused) {
  for (const char* name : {"all", "attention", "feature-maps"})
    EXPECT_EQ(name_of(parse_trained_part(name)), name);
  EXPECT_EQ(parse_trained_part("lora").kind, TrainedPart::lora);
  EXPECT_THROW(parse_trained_part("everything"), Error);
  EXPECT_EQ(parse_lora_targets("o,fc,q,o").size(), 5u);
  for (const char* targets : {"", "q,", "q;k", "query"})
    EXPECT_THROW(parse_lora_targets(targets), Error);
}

}  // namespace
}  // namespace t2r
