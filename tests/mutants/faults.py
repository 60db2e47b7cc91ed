"""The faults that run.py seeds, one at a time, and the test that has to notice each.

A fault is what somebody could really write: it compiles without a warning and the program runs. Old
texts occur exactly once in their file, so a change of the code shows as an error here."""

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    what: str  # what is wrong then, in words
    file: str
    edits: tuple  # (old text, new text), ...
    program: str  # of tests/<program>/
    tests: str  # gtest filter


FAULTS = [
    # Communication
    Fault("reducer_never_sends", "gradients are not summed over ranks at all",
          "dist/gradient_reducer.cpp",
          (("  pending_.push_back(comm_.start_all_reduce(",
            "  if (begin == end)\n    pending_.push_back(comm_.start_all_reduce("),),
          "dist", "Sizes/Ranks.Reducer/1"),
    Fault("reducer_skips_tail", "the last bucket is not sent when it is not full",
          "dist/gradient_reducer.cpp",
          (("if (started_ > 0) start(0, started_);",
            "if (started_ >= bucket_elements_) start(0, started_);"),),
          "dist", "GradientReducer.BucketsStartAtTheWatermark:Sizes/Ranks.Reducer/1"),
    Fault("reducer_does_not_wait", "the reducer returns while buckets are on their way",
          "dist/gradient_reducer.cpp",
          (("for (; !pending_.empty(); pending_.pop_front()) pending_.front()->wait();",
            "for (; !pending_.empty(); pending_.pop_front()) pending_.front()->test();"),),
          "dist", "GradientReducer.BucketsStartAtTheWatermark"),
    Fault("barrier_without_wait", "a barrier among threads waits for nobody",
          "dist/thread_comm.cpp",
          (("  const auto operation = join(*group_, next_++, rank(), "
            "{.call = {}, .group = nullptr});\n"
            "  wait_for(*group_, *operation, rank());\n",
            "  join(*group_, next_++, rank(), {.call = {}, .group = nullptr});\n"),),
          "dist", "ThreadComm.*"),
    Fault("reduce_scatter_wrong_part", "reduce_scatter hands every rank another rank's part",
          "dist/thread_comm.cpp",
          (("(whole ? 0 : r * part)", "(whole ? 0 : (size - 1 - r) * part)"),),
          "dist", "Sizes/Ranks.ReduceScatter/1"),

    # Data
    Fault("loader_drops_remainder", "ranks take slices that leave the remainder to nobody",
          "data/loader.cpp",
          (("begin = size * rank / ranks, end = size * (rank + 1) / ranks;",
            "begin = size / ranks * rank, end = size / ranks * (rank + 1);"),),
          "data", "Loader.ResultsDoNotDependOnRanksAndMicroSteps"),
    Fault("loader_resumes_at_zero", "a resumed run sees the first samples again",
          "data/loader.cpp",
          (("        step(first_step) {", "        step(0 * first_step) {"),),
          "data", "Loader.ResumeGoesOnExactly"),
    Fault("row_ids_local", "dropout's row ids count from the rank's first row",
          "data/sampler.cpp",
          (("plan.sample_ids[static_cast<std::size_t>(i)], i);",
            "plan.sample_ids[static_cast<std::size_t>(i)], i - begin);"),),
          "data", "Sampler.RowIdsAreThePlaceInTheUpdate"),
    Fault("documents_run_together", "the last token of a document predicts the next document",
          "data/sampler.cpp",
          (("    if (document_ends) batch.targets[static_cast<std::size_t>"
            "(first_row + segment_end - 1)] = -1;\n", ""),),
          "data", "Sampler.PackingLeaksNothing"),

    # Kernels
    Fault("bias_added_twice", "linear layers add their bias twice (fp64)",
          "kernels/linear_cpu.cpp",
          (("  if (w.dtype == DType::f64)\n    double_product(y, a, b, bias, false);\n  else if",
            "  if (w.dtype == DType::f64) {\n    double_product(y, a, b, bias, false);\n"
            "    for (std::int64_t i = 0; bias && i < y.rows(); ++i)\n"
            "      add_to(queue, y.row_range(i, i + 1), bias.view({1, bias.size()}));\n"
            "  } else if"),),
          "kernels", "Linear.FollowsTheReference"),
    Fault("bias_gradient_doubled", "the gradient of a linear layer's bias is twice too large",
          "kernels/linear_cpu.cpp",
          (("out[strip + j] += total[j];", "out[strip + j] += 2 * total[j];"),),
          "kernels", "Linear.GradientsByCentralDifferences"),
    Fault("no_gradient_through_z", "linear attention: the keys' gradient misses the denominator",
          "kernels/linear_attention_recurrent_cpu.cpp",
          (("state_times(token.dk, ds, token.v, dz, A(1), k, d);",
            "state_times(token.dk, ds, token.v, dz, A(0), k, d);"),),
          "kernels", "LinearAttention.EveryGradientByCentralDifferences"),
    Fault("z_without_decay", "linear attention: S decays from chunk to chunk, z does not",
          "kernels/linear_attention_chunkwise_cpu.cpp",
          (("      scale(z, total_decay, k);\n", ""),),
          "kernels", "LinearAttention.FormsAgreeForAnyChunk"),
    Fault("state_not_reset", "linear attention: a segment begins with the state of the one before",
          "kernels/linear_attention_chunkwise_cpu.cpp",
          (("  read_initial(call, unit, s, z);\n"
            "  bool started = static_cast<bool>(call.initial_s);",
            "  if (unit.segment == 0 || call.initial_s) read_initial(call, unit, s, z);\n"
            "  bool started = unit.segment > 0 || static_cast<bool>(call.initial_s);"),),
          "kernels", "LinearAttention.FormsAgreeForAnyChunk"),
    Fault("clamp_gradient_not_cut", "linear attention: the denominator has a gradient where it is "
          "clamped",
          "kernels/linear_attention_internal.h",
          (("return clamped ? A(0) : -sum * factor;", "return -sum * factor;"),),
          "kernels", "LinearAttention.FormsAgreeWithTheClampActive"),
    Fault("rotary_backward_sign", "rotary positions turn gradients the wrong way",
          "kernels/rotary_cpu.cpp",
          (("inverse ? A{-1} : A{1}", "inverse ? A{1} : A{1}"),),
          "kernels", "Rotary.Gradients"),
    Fault("dropout_by_place", "dropout draws by a row's place on its rank, not by its row id",
          "kernels/dropout_cpu.cpp",
          (("dropout.row_ids ? dropout.row_ids[row] : row;", "row;"),),
          "kernels", "Dropout.RowsAreIndependentOfTheirPlace"),
    Fault("bias_correction_off_by_one", "AdamW corrects the second moment for one step too many",
          "kernels/adamw_cpu.cpp",
          (("std::pow(step.beta2, static_cast<double>(step.step))",
            "std::pow(step.beta2, static_cast<double>(step.step + 1))"),),
          "kernels", "AdamW.FollowsTheReference"),
    Fault("smoothing_not_in_gradient", "label smoothing is in the loss, half of it in the gradient",
          "kernels/cross_entropy_cpu.cpp",
          (("static_cast<A>(scale * (1 - smoothing));", "static_cast<A>(scale);"),),
          "kernels", "CrossEntropy.GradientByCentralDifferences"),

    # Model
    Fault("scale_on_the_key", "the feature map's 1 / sqrt(d) multiplies keys instead of queries, "
          "forward and backward",
          "core/model/attention.cpp",
          (("kept->q, map, heads, heads, scale());", "kept->q, map, heads, heads, 1.0);"),
           ("kept->k, map, heads,\n                        config_.key_value_heads, 1.0);",
            "kept->k, map, heads,\n                        config_.key_value_heads, scale());"),
           ("kept.q, map, heads, heads,\n                       scale());",
            "kept.q, map, heads, heads,\n                       1.0);"),
           ("kept.k, map, heads,\n                       config_.key_value_heads, 1.0);",
            "kept.k, map, heads,\n                       config_.key_value_heads, scale());")),
          "model", "Decoder.EqualsTheParallelFormInDouble"),
    Fault("decay_gradient_overwritten", "the decay's gradient keeps the last micro-batch only",
          "core/model/attention.cpp",
          (("dlogits[h] += dfactors", "dlogits[h] = dfactors"),),
          "model", "MicroBatches.AddUpToTheWholeBatch"),
    Fault("merged_map_without_bias", "a merged feature map forgets the projection's bias",
          "core/model/attention_step.cpp",
          (("static_cast<A>(map_bias[f]) + bias);",
            "static_cast<A>(map_bias[f]) + A(0) * bias);"),),
          "model", "Decoder.MergedFeatureMapsEqualUnmergedOnes"),
    Fault("backward_other_dropout", "backward draws another dropout mask than forward",
          "core/model/block.cpp",
          (("residual(ffn_norm_, kFfnOut).backward(", "residual(ffn_norm_, kAttentionOut).backward("),),
          "model", "Models/Gradient.EqualsCentralDifferencesWithDropoutAndSmoothing/gpt2"),

    # Translation
    Fault("encoder_is_causal", "the encoder's attention does not look ahead",
          "core/model/block.cpp",
          (("role == Role::encoder ? AttentionKind::bidirectional : AttentionKind::causal",
            "AttentionKind::causal"),),
          "model", "TranslationModel.*"),
    Fault("cross_gradient_overwritten", "the encoder gets the gradient of one decoder layer only",
          "core/model/attention.cpp",
          (("dmemory, dkey_value, memory, true);", "dmemory, dkey_value, memory, false);"),),
          "model", "Models/Gradient.EqualsCentralDifferences/translation*"),
    Fault("pair_row_ids_local", "dropout's row ids of pairs count from the rank's first row",
          "data/pair_sampler.cpp",
          (("plan.target_begin[i] + row);",
            "plan.target_begin[i] - plan.target_begin[static_cast<std::size_t>(begin)] + row);"),),
          "data", "PairSampler.*"),
    Fault("beams_keep_their_state", "a hypothesis goes on from another's state",
          "core/model/beam_search.cpp",
          (("    decoder.take(parents);\n", ""),),
          "model", "BeamSearch.*"),
    Fault("penalty_without_eos", "the length penalty does not count the end of the sentence",
          "core/model/beam_search.cpp",
          (("length_penalty(std::ssize(done.tokens) + 1, ", "length_penalty(std::ssize(done.tokens), "),),
          "model", "BeamSearch.*"),

    # Training
    Fault("schedule_off_by_one", "after the warm-up the schedule lags one update behind",
          "core/train/schedule.cpp",
          (("static_cast<double>(update - warmup_steps);",
            "static_cast<double>(update - warmup_steps - 1);"),),
          "train", "Schedule.*"),
    Fault("loss_by_local_count",
          "the loss is divided by the micro-batch's tokens, not the update's",
          "core/train/trainer.cpp",
          (("(batch.update_target_count, 1)", "(batch.target_count, 1)"),),
          "train", "DataParallel.EqualsOneRank"),
    Fault("empty_rank_cuts_no_buckets", "a rank without rows sends its gradients as one bucket",
          "core/train/trainer.cpp",
          (("    } else if (last) {", "    } else if (last && batch.micro_step == 0) {"),),
          "train", "DataParallel.MoreRanksThanTheLastMicroStepHasSequences"),
    Fault("second_moment_forgotten", "checkpoints do not hold Adam's second moment",
          "core/train/checkpoint.cpp",
          (('          {"adam_m", optimizer.first_moment()},\n'
            '          {"adam_v", optimizer.second_moment()}};',
            '          {"adam_m", optimizer.first_moment()}};'),),
          "train", "Checkpoint.RoundTripIsExact"),
    Fault("resume_repeats_samples", "the trainer starts its loader at the first sample on resume",
          "core/train/trainer.cpp",
          (("options_.micro_batch, state_.step)", "options_.micro_batch, 0)"),),
          "train", "Resume.SixUpdatesAreThreeAndThree"),
]
