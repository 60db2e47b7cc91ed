// Any number of ranks trains the same model; equal meshes to the last bit.
#include <gtest/gtest.h>

#include "core/model/cost.h"
#include "core/model/decoder.h"
#include "core/train/model_folder.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace t2r::testing {
namespace {

TEST(DataParallel, EqualsOneRank) {
  const Outcome expected = train(1, tiny_config(), DType::f64, tiny_options(5));
  ASSERT_EQ(expected.steps.size(), 5u);
  EXPECT_GT(expected.steps[0].grad_norm, 0.5);  // clipping is on
  for (int ranks : {1, 2, 3, 4})
    for (std::int64_t bucket : {std::int64_t{1}, std::int64_t{1} << 30})
      for (std::int64_t micro_batch : {1, 3, 7}) {
        SCOPED_TRACE(
            fmt::format("{} ranks, bucket {}, micro-batch {}", ranks, bucket, micro_batch));
        TrainOptions options = tiny_options(5);
        options.bucket_bytes = bucket;
        options.micro_batch = micro_batch;
        expect_same_training(train(ranks, tiny_config(), DType::f64, options), expected, 1e-10);
      }
}

TEST(DataParallel, OtherModels) {
  ModelConfig llama = llama_config(kVocabulary, 3, 16, 4, 2, 12);
  llama.dropout = 0.1f;
  llama.layer_drop = 0.3f;
  ModelConfig elu = swapped_config(llama, {.feature_map = FeatureMap::elu, .feature_size = 0}, {1});
  ModelConfig rfa = gpt2_config(kVocabulary, 2, 16, 2, 12);
  rfa.positions = Positions::sinusoidal;
  rfa.tied_output = false;
  rfa = swapped_config(
      rfa, {.feature_map = FeatureMap::rfa, .feature_size = 4, .decay = Decay::fixed}, {});
  for (const ModelConfig& config : {llama, elu, rfa})
    for (Packing packing : {Packing::documents, Packing::contiguous}) {
      TrainOptions options = tiny_options(4);
      options.packing = packing;
      const Outcome expected = train(1, config, DType::f64, options);
      options.micro_batch = 2;
      for (int ranks : {2, 4})
        expect_same_training(train(ranks, config, DType::f64, options), expected, 1e-10);
    }
}

TEST(DataParallel, SentencePairs) {
  ModelConfig post = tiny_translation_config();
  post.pre_norm = false;
  post.layer_drop = 0.2f;
  for (const ModelConfig& config : {tiny_translation_config(), post}) {
    TrainOptions options = tiny_options(5);
    options.micro_batch_tokens = 1000;  // the reference takes the update in one piece
    const Outcome expected = train(1, config, DType::f64, options, {}, ragged_pair_data());
    for (int ranks : {1, 2, 3, 4})
      for (std::int64_t bucket : {std::int64_t{1}, std::int64_t{1} << 30})
        for (std::int64_t micro : {1, 50}) {
          SCOPED_TRACE(fmt::format("{} ranks, bucket {}, micro-batch {}", ranks, bucket, micro));
          options.bucket_bytes = bucket;
          options.micro_batch_tokens = micro;
          expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_pair_data()),
                               expected, 1e-10);
        }
  }
}

/// Models that between them have everything that is shared out: grouped heads, SwiGLU, biases on
/// some projections, tied and untied vocabularies with and without bias (37 entries: no number of
/// ranks divides them), every feature map, decay, dropout on everything, LayerDrop, learned
/// positions and norms on both sides.
std::vector<ModelConfig> models_to_share_out() {
  ModelConfig gpt2 = gpt2_config(kVocabulary, 3, 16, 4, 12);
  gpt2.dropout = 0.1f;
  gpt2.attention_dropout = 0.1f;
  gpt2.activation_dropout = 0.05f;
  ModelConfig llama = llama_config(kVocabulary, 3, 16, 4, 4, 12);
  llama.dropout = 0.1f;
  llama.layer_drop = 0.3f;
  llama.ffn_size = 44;
  ModelConfig qwen2 = llama;
  qwen2.qkv_biases = true;
  ModelConfig untied = gpt2;
  untied.positions = Positions::sinusoidal;
  untied.tied_output = false;
  untied.output_bias = true;
  untied.pre_norm = false;
  return {gpt2,
          qwen2,
          swapped_config(gpt2, {.feature_size = 5, .decay = Decay::learned}, {0}),
          swapped_config(llama, {.feature_map = FeatureMap::elu, .feature_size = 0}, {1}),
          swapped_config(untied, {.feature_size = 3}, {}),
          swapped_config(untied, {.feature_map = FeatureMap::rfa, .feature_size = 64}, {1})};
}

TEST(TensorParallel, EqualsOneRank) {
  for (const ModelConfig& config : models_to_share_out()) {
    TrainOptions options = tiny_options(5);
    const Outcome expected = train(1, config, DType::f64, options);
    options.micro_batch = 2;
    for (const auto& [ranks, tp] : {std::pair{2, 2}, {4, 4}, {4, 2}, {6, 2}}) {
      SCOPED_TRACE(fmt::format("{} ranks, tp {}, {}", ranks, tp, describe_attention(config)));
      expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_data(), tp),
                           expected, 1e-10);
    }
  }
}

TEST(SequenceParallel, EqualsOneRank) {
  for (const ModelConfig& config : models_to_share_out()) {
    TrainOptions options = tiny_options(5);
    const Outcome expected = train(1, config, DType::f64, options);
    options.micro_batch = 2;
    options.sequence_parallel = true;
    for (const auto& [ranks, tp] : {std::pair{1, 1}, {2, 2}, {4, 4}, {4, 2}})
      for (bool all : {false, true}) {
        options.recompute = options.optimizer_sharding = all;
        SCOPED_TRACE(fmt::format("{} ranks, tp {}, {}", ranks, tp, describe_attention(config)));
        expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_data(), tp),
                             expected, 1e-10);
      }
  }
}

TEST(SequenceParallel, ARankWithoutRowsInTheLastMicroStep) {
  // 5 sequences on 2 pairs of ranks, one at a time: in the third micro-step one pair has nothing.
  TrainOptions options = tiny_options(3);
  options.global_batch = options.micro_batch = 5;
  const Outcome expected = train(1, tiny_config(), DType::f64, options);
  options.micro_batch = 1;
  options.sequence_parallel = true;
  expect_same_training(train(4, tiny_config(), DType::f64, options, {}, ragged_data(), 2), expected,
                       1e-10);
}

TEST(SequenceParallel, SentencePairs) {
  ModelConfig pre = tiny_translation_config();
  ModelConfig post = pre;
  post.pre_norm = false;
  post.layer_drop = 0.2f;
  post.source_vocab_size = 41;
  for (const ModelConfig& config : {pre, post}) {
    TrainOptions options = tiny_options(5);
    options.micro_batch_tokens = 1000;
    const Outcome expected = train(1, config, DType::f64, options, {}, ragged_pair_data());
    options.micro_batch_tokens = 50;
    options.sequence_parallel = true;
    for (const auto& [ranks, tp] : {std::pair{2, 2}, {4, 2}})
      expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_pair_data(), tp),
                           expected, 1e-10);
  }
}

TEST(Recompute, ChangesNothingButMemory) {
  ModelConfig translator = tiny_translation_config();
  translator.layer_drop = 0.2f;
  std::vector<ModelConfig> models = models_to_share_out();
  models.push_back(translator);
  for (const ModelConfig& config : models)
    for (DType dtype : {DType::f64, DType::bf16})
      for (const auto& [ranks, tp] : {std::pair{1, 1}, {4, 2}}) {
        const TrainData data = config.encoder_decoder() ? ragged_pair_data() : ragged_data();
        TrainOptions options = tiny_options(4);
        const Outcome expected = train(ranks, config, dtype, options, {}, data, tp);
        options.recompute = true;
        SCOPED_TRACE(fmt::format("{} ranks, tp {}, {}", ranks, tp, describe_attention(config)));
        expect_same_training(train(ranks, config, dtype, options, {}, data, tp), expected, 0);
      }
}

TEST(Recompute, KeepsOneTensorABlock) {
  omp_set_num_threads(1);
  const ModelConfig config = swapped_config(gpt2_config(kVocabulary, 8, 64, 4, 64), {}, {});
  Transformer model(config, DType::f32, TrainedPart::all);
  model.params().initialize(1);
  const auto most = [&](bool recompute) {
    Arena activations(1 << 28), scratch(1 << 28);
    TokenRowsBuffer buffer;
    buffer.add(std::vector<std::int32_t>(64, 3));
    Batch batch;
    static_cast<TokenRows&>(batch) = buffer.rows();
    const std::vector<std::int32_t> targets(64, 5);
    batch.targets = targets.data();
    Step step{activations, scratch, Queue{}};
    step.recompute = recompute;
    model.train_step(step, batch, 1, 0, nullptr);
    return activations.peak();
  };
  EXPECT_LT(most(true), most(false) / 3);
}

/// Dropout included: it keeps out of the teacher's pass and of attention transfer.
void expect_same_on_meshes(const ModelConfig& config, TrainOptions options, const TrainData& data,
                           double teacher_share) {
  const auto run = [&](int ranks, int tp, int cp) {
    return train(ranks, config, DType::f64, options, {}, data, tp, cp, teacher_share);
  };
  const Outcome expected = run(1, 1, 1);
  options.micro_batch = 2;
  const int cp = config.encoder_decoder() || config.linear.window ? 1 : 2;
  for (const auto& [ranks, tp, context] :
       {std::tuple{2, 1, 1}, {3, 1, 1}, {2, 2, 1}, {4, 2, 1}, {2, 1, cp}, {4, 2, cp}})
    for (bool all : {false, true}) {
      options.sequence_parallel = all && tp > 1 && context == 1;
      options.optimizer_sharding = all;
      SCOPED_TRACE(fmt::format("{} ranks, tp {}, cp {}, {}", ranks, tp, context,
                               describe_attention(config)));
      expect_same_training(run(ranks, tp, context), expected, 1e-10);
    }
}

std::vector<ModelConfig> models_that_learn() {
  ModelConfig llama = llama_config(kVocabulary, 3, 16, 4, 4, 12);
  llama.dropout = 0.1f;
  llama.ffn_size = 44;
  return {tiny_config(),
          swapped_config(
              llama, {.feature_map = FeatureMap::hedgehog, .feature_size = 8, .window = 3}, {1})};
}

TEST(Teacher, EqualsOneRankOnEveryMesh) {
  for (const ModelConfig& config : models_that_learn())
    expect_same_on_meshes(config, tiny_options(4), ragged_data(), 0.7);
  expect_same_on_meshes(tiny_translation_config(), tiny_options(4), ragged_pair_data(), 1);
}

TEST(AttentionTransfer, EqualsOneRankOnEveryMesh) {
  TrainOptions options = tiny_options(4);
  options.stage = Stage::transfer;
  for (const ModelConfig& config : models_that_learn())
    expect_same_on_meshes(config, options, ragged_data(), 0);
  expect_same_on_meshes(tiny_translation_config(), options, ragged_pair_data(), 0);
}

TEST(AttentionTransfer, DropoutKeepsOut) {
  ModelConfig still = tiny_config();
  still.dropout = still.attention_dropout = still.activation_dropout = 0;
  TrainOptions options = tiny_options(3);
  options.stage = Stage::transfer;
  expect_same_training(train(1, tiny_config(), DType::f64, options),
                       train(1, still, DType::f64, options), 0);
}

TEST(AttentionTransfer, BringsLayersNearerToSoftmax) {
  TrainOptions options = tiny_options(60);
  options.stage = Stage::transfer;
  options.schedule.peak = 2e-2;
  const Outcome outcome = train(1, tiny_config(), DType::f32, options);
  ASSERT_EQ(outcome.steps.back().transfer_error.size(), 1u);
  EXPECT_LT(outcome.steps.back().loss, 0.7 * outcome.steps.front().loss);
}

TEST(TensorParallel, SentencePairs) {
  ModelConfig pre = tiny_translation_config();
  ModelConfig post = pre;
  post.pre_norm = false;
  post.layer_drop = 0.2f;
  post.source_vocab_size = 41;
  post.tied_output = false;
  post.output_bias = true;
  for (const ModelConfig& config : {pre, post}) {
    TrainOptions options = tiny_options(5);
    options.micro_batch_tokens = 1000;
    const Outcome expected = train(1, config, DType::f64, options, {}, ragged_pair_data());
    options.micro_batch_tokens = 50;
    for (const auto& [ranks, tp] : {std::pair{2, 2}, {4, 2}}) {
      SCOPED_TRACE(fmt::format("{} ranks, tp {}", ranks, tp));
      expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_pair_data(), tp),
                           expected, 1e-10);
    }
  }
}

TEST(TensorParallel, CheckpointsAndModelsAreOfNoMesh) {
  for (DType dtype : {DType::f64, DType::bf16}) {
    TemporaryFolder folder;
    TrainOptions options = tiny_options(6);
    const double limit = dtype == DType::f64 ? 1e-10 : 0.05;
    // Enough features that no denominator comes near the clamp, where bf16 says nothing.
    ModelConfig config = gpt2_config(kVocabulary, 2, 16, 4, 12);
    config.dropout = 0.1f;
    config = swapped_config(config, {.feature_size = 24, .decay = Decay::learned}, {0});
    const Outcome expected = train(1, config, dtype, options);
    int run = 0;
    // Ranks and tensor-parallel ranks before and after the stop.
    for (const auto& [before, after] : {std::pair{std::pair{4, 2}, std::pair{1, 1}},
                                        {{4, 2}, {4, 1}},
                                        {{4, 2}, {4, 4}},
                                        {{1, 1}, {2, 2}},
                                        {{2, 2}, {4, 2}}}) {
      SCOPED_TRACE(fmt::format("{} from {}x{} to {}x{}", name_of(dtype), before.first,
                               before.second, after.first, after.second));
      options.run_folder = folder / std::to_string(run++);
      options.optimizer_sharding = run % 2 == 0;
      options.steps = 3;
      options.schedule.total_steps = 6;
      Outcome whole = train(before.first, config, dtype, options, {}, ragged_data(), before.second);
      options.steps = 6;
      options.optimizer_sharding = run % 3 == 0;
      const Outcome rest =
          train(after.first, config, dtype, options, {}, ragged_data(), after.second);
      ASSERT_EQ(rest.steps.size(), 3u);
      whole.steps.insert(whole.steps.end(), rest.steps.begin(), rest.steps.end());
      whole.values = rest.values;
      whole.first_moment = rest.first_moment;
      whole.second_moment = rest.second_moment;
      expect_same_training(whole, expected, limit);
      // The model that was written is the one that was trained.
      const auto written = load_model(options.run_folder + "/model", dtype, TrainedPart::nothing);
      if (dtype == DType::f64) {
        EXPECT_EQ(to_doubles(written->params().all_values()), rest.values);
      }
    }
  }
}

TEST(TensorParallel, PartsOfModelsAreReadAndWrittenAsTheyAre) {
  std::vector<ModelConfig> configs = models_to_share_out();
  configs.push_back(tiny_translation_config());
  for (const ModelConfig& config : configs)
    for (int ranks : {2, 4}) {
      if (config.heads % ranks != 0) continue;
      SCOPED_TRACE(fmt::format("{} ranks, {}", ranks, describe_attention(config)));
      const TemporaryFolder folder;
      Transformer whole(config, DType::f32, TrainedPart::nothing);
      whole.params().initialize(5);
      save_model(whole, folder / "whole");
      const std::string print = fingerprint(whole.params());
      run_ranks(ranks, [&](Comm& world) {
        const TensorParallel parallel(world);
        const auto part = load_model(folder / "whole", DType::f32, TrainedPart::all, parallel);
        Transformer expected(config, DType::f32, TrainedPart::all, parallel);
        expected.params().initialize(5);
        EXPECT_EQ(to_doubles(part->params().all_values()),
                  to_doubles(expected.params().all_values()));
        EXPECT_EQ(fingerprint(part->params(), parallel), print);
        save_model(*part, folder / "parts");
      });
      for (const char* file : {"/model.safetensors", "/config.json"})
        EXPECT_TRUE(get(folder / "parts" + file) == get(folder / "whole" + file)) << file;
      put(folder / "file", "");  // where a folder should be
      run_ranks(ranks, [&](Comm& world) {
        const auto part =
            load_model(folder / "whole", DType::f32, TrainedPart::nothing, TensorParallel(world));
        if (world.rank() == 0) {
          EXPECT_ERROR(save_model(*part, folder / "file"), "");
        } else {
          save_model(*part, folder / "file");
        }
      });
    }
}

TEST(TensorParallel, DecodesTheSame) {
  const ModelConfig config = swapped_config(gpt2_config(kVocabulary, 3, 16, 4, 24),
                                            {.feature_size = 5, .decay = Decay::learned}, {1});
  const std::vector<std::vector<std::int32_t>> prompts{{1, 2, 3}, {30}, {5, 6, 7, 8, 9}};
  const auto decode = [&](const TensorParallel& parallel) {
    Transformer model(config, DType::f64, TrainedPart::nothing, parallel);
    model.params().initialize(5);
    Decoder decoder(model, {.batch = 3, .capacity = 20});
    std::vector<double> logits = to_doubles(decoder.prefill(prompts));
    for (std::int32_t token : {4, 36, 11})
      for (double value : to_doubles(decoder.step(std::vector<std::int32_t>(3, token))))
        logits.push_back(value);
    return logits;
  };
  const std::vector<double> expected = decode({});
  for (int ranks : {2, 4})
    run_ranks(ranks, [&](Comm& world) {
      EXPECT_LE(largest_difference(decode(TensorParallel(world)), expected), 1e-10);
    });
}

TEST(TensorParallel, EachRankHoldsItsShare) {
  const ModelConfig config =
      swapped_config(gpt2_config(1000, 2, 64, 4, 64), {.feature_size = 16}, {});
  const std::int64_t whole = parameter_count(config);
  run_ranks(2, [&](Comm& world) {
    Transformer model(config, DType::f32, TrainedPart::all, TensorParallel(world));
    Optimizer optimizer(model.params(), {});
    EXPECT_LE(model.params().parameter_count(), whole * 55 / 100);
    // Gaps for alignment included.
    EXPECT_LE(optimizer.first_moment().size(), whole * 55 / 100);
    EXPECT_EQ(world.all_reduce_value(model.params().value(ParamId{0}).rows(), ReduceOp::sum), 1000);
  });
}

TEST(OptimizerSharding, EqualsOneRank) {
  for (const ModelConfig& config : models_to_share_out()) {
    TrainOptions options = tiny_options(5);
    const Outcome expected = train(1, config, DType::f64, options);
    options.optimizer_sharding = true;
    options.micro_batch = 2;
    for (const auto& [ranks, tp] : {std::pair{1, 1}, {2, 1}, {3, 1}, {4, 1}, {4, 2}, {6, 2}})
      for (std::int64_t bucket : {std::int64_t{1}, std::int64_t{1} << 12, std::int64_t{1} << 30}) {
        SCOPED_TRACE(fmt::format("{} ranks, tp {}, bucket {}, {}", ranks, tp, bucket,
                                 describe_attention(config)));
        options.bucket_bytes = bucket;
        expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_data(), tp),
                             expected, 1e-10);
      }
  }
}

TEST(OptimizerSharding, OfNarrowModelsIsTheSameEveryTime) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    TrainOptions options = tiny_options(4);
    options.bucket_bytes = 4096;
    const Outcome expected = train(3, tiny_config(), dtype, options);
    options.optimizer_sharding = true;
    const Outcome sharded = train(3, tiny_config(), dtype, options);
    expect_same_training(train(3, tiny_config(), dtype, options), sharded, 0);
    // Among threads every sum is formed in the order of the ranks, so only the norm has another.
    expect_same_training(sharded, expected, 1e-5);
  }
}

TEST(OptimizerSharding, ARankKeepsItsShare) {
  const ModelConfig config =
      swapped_config(gpt2_config(1000, 2, 64, 4, 64), {.feature_size = 16}, {});
  for (DType dtype : {DType::f32, DType::bf16})
    run_ranks(4, [&](Comm& world) {
      Transformer model(config, dtype, TrainedPart::all);
      const std::int64_t span = model.params().gradient_span();
      const Optimizer optimizer(model.params(), {},
                                {&world, cut_buckets(span, model.ready_offsets(), 1 << 14)});
      std::int64_t kept = 0;
      for (const OwnedRange& range : optimizer.owned()) {
        EXPECT_EQ(range.first_moment.size(), range.end - range.begin);
        EXPECT_EQ(range.second_moment.size(), range.end - range.begin);
        EXPECT_EQ(range.master.size(), range.end - range.begin);
        kept += range.end - range.begin;
      }
      EXPECT_LE(kept, span * 26 / 100);
      EXPECT_EQ(optimizer.state_bytes(), kept * 4 * (dtype == DType::bf16 ? 3 : 2));
      EXPECT_EQ(world.all_reduce_value(kept, ReduceOp::sum) / 16, span / 16);
    });
}

TEST(OptimizerSharding, CheckpointsAreOfNoMesh) {
  struct Ranks {
    int ranks, tp, cp;
    bool sharded;
  };
  for (DType dtype : {DType::f64, DType::bf16}) {
    const double limit = dtype == DType::f64 ? 1e-10 : 0.05;
    ModelConfig config = tiny_config();
    config.linear.feature_size = 24;  // no denominator near the clamp, where bf16 says nothing
    TrainOptions options = tiny_options(6);
    options.bucket_bytes = 4096;
    const Outcome expected = train(1, config, dtype, options);
    const Ranks sharded{4, 1, 1, true}, three{3, 1, 1, true}, parts{4, 2, 1, true},
        stretches{4, 1, 2, true}, plain{2, 2, 1, false}, one{1, 1, 1, false};
    for (const auto& [before, after] : {std::pair{sharded, one},
                                        {one, sharded},
                                        {sharded, three},
                                        {parts, stretches},
                                        {stretches, plain},
                                        {plain, parts},
                                        {sharded, sharded}}) {
      const TemporaryFolder folder;
      options.run_folder = folder / "run";
      const auto part = [&](const Ranks& mesh, std::int64_t steps) {
        options.steps = steps;
        options.schedule.total_steps = 6;
        options.optimizer_sharding = mesh.sharded;
        return train(mesh.ranks, config, dtype, options, {}, ragged_data(), mesh.tp, mesh.cp);
      };
      Outcome whole = part(before, 3);
      const Outcome rest = part(after, 6);
      ASSERT_EQ(rest.steps.size(), 3u);
      whole.steps.insert(whole.steps.end(), rest.steps.begin(), rest.steps.end());
      whole.values = rest.values;
      whole.first_moment = rest.first_moment;
      whole.second_moment = rest.second_moment;
      expect_same_training(whole, expected, limit);
    }
  }
}

TEST(OptimizerSharding, ABadGradientIsNamedOnEveryRank) {
  run_ranks(3, [&](Comm& world) {
    Transformer model(tiny_config(), DType::f32, TrainedPart::all);
    ParamStore& params = model.params();
    const Optimizer optimizer(
        params, {}, {&world, cut_buckets(params.gradient_span(), model.ready_offsets(), 64)});
    EXPECT_EQ(optimizer.first_bad_gradient(), "");
    const OwnedRange& own = optimizer.owned().front();
    if (world.rank() == 2) params.all_grads().as<float>()[own.begin] = NAN;
    EXPECT_NE(optimizer.first_bad_gradient(), "");
    EXPECT_FALSE(std::isfinite(optimizer.global_norm(Queue{})));
  });
}

TEST(TensorParallel, WhatCannotBeSharedOutIsSaid) {
  const auto says = [](const ModelConfig& config, int ranks, const std::string& sentence) {
    run_ranks(ranks, [&](Comm& world) {
      const std::string error = error_of(
          [&] { Transformer(config, DType::f32, TrainedPart::nothing, TensorParallel(world)); });
      EXPECT_NE(error.find(sentence), std::string::npos) << error;
    });
  };
  says(gpt2_config(kVocabulary, 2, 16, 4, 12), 3, "4 attention heads cannot be shared out among 3");
  says(llama_config(kVocabulary, 2, 16, 4, 2, 12), 4, "2 key-value heads");
  ModelConfig odd = gpt2_config(kVocabulary, 2, 16, 4, 12);
  odd.ffn_size = 33;
  says(odd, 2, "33 feed-forward columns");
}

TEST(DataParallel, ModelAndDataMustBeOfOneKind) {
  EXPECT_THROW(train(1, tiny_config(), DType::f32, tiny_options(1), {}, ragged_pair_data()), Error);
  EXPECT_THROW(train(1, tiny_translation_config(), DType::f32, tiny_options(1)), Error);
}

TEST(DataParallel, MoreRanksThanTheLastMicroStepHasSequences) {
  // 5 sequences on 4 ranks, one at a time: in the second micro-step three ranks have nothing.
  TrainOptions options = tiny_options(3);
  options.global_batch = 5;
  options.bucket_bytes = 1;
  options.micro_batch = 5;  // the reference takes the update in one piece
  const Outcome expected = train(1, tiny_config(), DType::f64, options);
  options.micro_batch = 1;
  expect_same_training(train(4, tiny_config(), DType::f64, options), expected, 1e-10);
}

/// Three ranks of which one loses the last bit of a parameter after update 2.
void drift(const TrainOptions& options) {
  run_ranks(3, [&](Comm& world) {
    omp_set_num_threads(1);
    Mesh mesh = make_mesh(world, 3, 1);
    Transformer model(tiny_config(), DType::f32, TrainedPart::all);
    Trainer trainer(model, mesh, ragged_data(), options);
    trainer.on_step = [&](const StepFigures& figures) {
      float& x = trainer.optimizer().master().as<float>()[100];
      if (figures.step == 2 && world.rank() == 1) x = std::nextafter(x, 1.0f);
    };
    trainer.run();
  });
}

TEST(DataParallel, ReplicasThatDriftApartStopTheRun) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(4);
  options.replica_check_every = 1;
  EXPECT_ERROR(drift(options),
               "the parameters after update 2: rank 1 holds other values than ranks 0, 2");
  options.replica_check_every = 3;
  EXPECT_ERROR(drift(options), "the parameters after update 3: rank 1");
  options.replica_check_every = 0;
  EXPECT_NO_THROW(drift(options));
  options.run_folder = folder / "run";  // at the checkpoint, which is then not written
  EXPECT_ERROR(drift(options), "the parameters after update 4: rank 1");
  EXPECT_FALSE(std::filesystem::exists(folder / "run/latest"));
}

TEST(DataParallel, RanksWithDifferentDataOrModelsAreTold) {
  const auto start = [](bool other_data, bool other_model) {
    run_ranks(2, [&](Comm& world) {
      Mesh mesh = make_mesh(world, 2, 1);
      ModelConfig config = tiny_config();
      TrainData data = ragged_data();
      if (world.rank() == 1 && other_data) data.fingerprint = "other";
      if (world.rank() == 1 && other_model) config = gpt2_config(kVocabulary, 2, 16, 2, 13);
      Transformer model(config, DType::f32, TrainedPart::all);
      Trainer(model, mesh, data, tiny_options(1)).run();
    });
  };
  EXPECT_NO_THROW(start(false, false));
  EXPECT_ERROR(start(true, false), "rank 1 has other, rank 0 has ragged");
  EXPECT_ERROR(start(false, true), "the ranks disagree on the model's configuration");
}

TEST(Determinism, SameMeshTwiceIsBitIdentical) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Outcome first = train(2, tiny_config(), dtype, tiny_options(4));
    const Outcome second = train(2, tiny_config(), dtype, tiny_options(4));
    expect_same_training(first, second, 0);
  }
}

TEST(Determinism, SeedsMatter) {
  TrainOptions options = tiny_options(2);
  const Outcome first = train(1, tiny_config(), DType::f64, options);
  options.seed = 4;
  EXPECT_GT(largest_difference(train(1, tiny_config(), DType::f64, options).values, first.values),
            1e-6);
}

}  // namespace
}  // namespace t2r::testing
