#include "core/train/evaluate.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/train/machine.h"
#include "core/train/token_batch.h"
#include "data/logits_file.h"
#include "data/mapped_file.h"

namespace t2r {
namespace {

EvaluationResult result_of(double nll, std::int64_t tokens, std::int64_t words) {
  check(tokens > 0, "there is nothing to evaluate: no token has a token before it");
  check(std::isfinite(nll), "the loss over {} tokens is {}: the model's weights are broken", tokens,
        nll);
  EvaluationResult result;
  result.loss = nll / static_cast<double>(tokens);
  result.tokens = tokens;
  result.words = words;
  result.perplexity_per_token = std::exp(result.loss);
  if (words > 0) result.perplexity_per_word = std::exp(nll / static_cast<double>(words));
  return result;
}

struct LossSum {
  double nll = 0;
  std::int64_t tokens = 0;
};

/// The loss over batches 0, 1, ... that batch(b) makes, the same on every rank. One place a batch,
/// filled by one rank, so that the sum over ranks adds zeros only and the order of the final sum
/// does not depend on who computed what.
template <class F>
LossSum sum_over_batches(Transformer& model, Comm& comm, std::int64_t batches, const F& batch,
                         Arena& activations, Arena& scratch) {
  std::vector<double> sums(static_cast<std::size_t>(2 * batches));
  for (std::int64_t b = comm.rank(); b < batches; b += comm.size()) {
    const TokenBatch tokens = batch(b);
    Step step{activations, scratch, Queue{}};
    const CrossEntropySums part = model.evaluate(step, batch_of(tokens));
    sums[static_cast<std::size_t>(2 * b)] = part.nll;
    sums[static_cast<std::size_t>(2 * b + 1)] = static_cast<double>(part.rows);
  }
  const Tensor all(sums.data(), Shape{2 * batches}, DType::f64);
  comm.all_reduce(all, ReduceOp::sum, Queue{});
  if (model.context().active()) model.context().comm().all_reduce(all, ReduceOp::sum, Queue{});
  double nll = 0, tokens = 0;
  for (std::size_t i = 0; i < sums.size(); i += 2) {
    nll += sums[i];
    tokens += sums[i + 1];
  }
  return {nll, static_cast<std::int64_t>(tokens)};
}

}  // namespace

EvaluationResult evaluate(Transformer& model, Comm& comm, const Corpus& corpus, std::int64_t words,
                          const EvaluationOptions& options, Arena& activations, Arena& scratch) {
  const auto sum = [&](std::int64_t batches, const auto& batch) {
    return sum_over_batches(model, comm, batches, batch, activations, scratch);
  };
  if (const auto* pairs = std::get_if<PairStream>(&corpus)) {
    const PairSampler sampler =
        PairSampler::in_order(*pairs, std::max<std::int64_t>(options.micro_batch_tokens / 2, 1));
    const auto [nll, tokens] = sum(sampler.steps_per_epoch(), [&](std::int64_t b) {
      const PairPlan plan = sampler.plan(b);
      return sampler.batch(plan, 0, std::ssize(plan.pairs));
    });
    return result_of(nll, tokens, words);
  }
  const std::int64_t length =
      options.sequence_length > 0 ? options.sequence_length : model.config().max_positions;
  const Sampler sampler = Sampler::in_order(std::get<TokenStream>(corpus), length, options.packing,
                                            std::max<std::int64_t>(options.micro_batch, 1));
  const bool partial = options.max_windows > 0 && options.max_windows < sampler.windows();
  const std::int64_t windows = partial ? options.max_windows : sampler.windows();
  const std::int64_t batch_size = sampler.global_batch_sequences();
  const auto [nll, tokens] = sum((windows + batch_size - 1) / batch_size, [&](std::int64_t b) {
    const WindowPlan plan = sampler.plan(b);
    return sampler.batch(plan, 0, std::min(std::ssize(plan.sample_ids), windows - b * batch_size));
  });
  return result_of(nll, tokens, partial ? 0 : words);
}

EvaluationResult evaluate(Transformer& model, Comm& comm, const Dataset& dataset,
                          const std::string& split, const EvaluationOptions& options) {
  check_usage(
      dataset.vocab_size() <= model.config().vocab_size,
      "the dataset {} has token ids up to {}, the model has a vocabulary of {}: they do not "
      "belong together",
      dataset.folder(), dataset.vocab_size() - 1, model.config().vocab_size);
  if (dataset.info().translation()) check_source_end(dataset.info().source_eos, model.config());
  Arena activations(machine_memory_bytes()), scratch(machine_memory_bytes());
  return evaluate(model, comm, dataset.corpus(split), dataset.split(split).words, options,
                  activations, scratch);
}

void check_source_end(bool source_eos, const ModelConfig& config) {
  check_usage(source_eos == config.source_eos,
              "the sources of the dataset end {} an end mark, those of the model {}: prepare it "
              "with --source-eos {}",
              source_eos ? "with" : "without", config.source_eos ? "with" : "without",
              config.source_eos);
}

std::vector<std::vector<std::int32_t>> read_token_ids(const std::string& path,
                                                      std::int64_t vocab_size) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  std::vector<std::vector<std::int32_t>> sequences;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    std::vector<std::int32_t> ids;
    for (std::size_t at = 0;;) {
      at = line.find_first_not_of(" ,\t\r", at);
      if (at == std::string_view::npos) break;
      const std::size_t stop = std::min(line.find_first_of(" ,\t\r", at), line.size());
      const std::string_view word = line.substr(at, stop - at);
      std::int64_t id = -1;
      const auto [last, error] = std::from_chars(word.data(), word.data() + word.size(), id);
      check_usage(
          error == std::errc() && last == word.data() + word.size() && id >= 0 && id < vocab_size,
          "{}, line {}: '{}' is no token id from 0 to {}", path, sequences.size() + 1,
          word.substr(0, 40), vocab_size - 1);
      ids.push_back(static_cast<std::int32_t>(id));
      at = stop;
    }
    check_usage(!ids.empty(), "{}, line {} holds no token ids", path, sequences.size() + 1);
    sequences.push_back(std::move(ids));
  }
  check_usage(!sequences.empty(), "{} is empty: it needs one sequence of token ids a line", path);
  return sequences;
}

EvaluationResult evaluate_token_ids(Transformer& model,
                                    const std::vector<std::vector<std::int32_t>>& sequences,
                                    const std::string& logits_path) {
  const ModelConfig& config = model.config();
  Arena activations(machine_memory_bytes()), scratch(machine_memory_bytes());
  Arena logits_memory(machine_memory_bytes());
  std::optional<LogitsFile> file;
  if (!logits_path.empty()) file.emplace(logits_path);
  double nll = 0;
  std::int64_t tokens = 0;
  for (std::size_t n = 0; n < sequences.size(); ++n) {
    const auto& ids = sequences[n];
    const auto rows = static_cast<std::int64_t>(ids.size());
    check_usage(config.positions == Positions::rotary || rows <= config.max_positions,
                "sequence {} has {} tokens, but the model has {} positions", n, rows,
                config.max_positions);
    TokenBatch batch;
    batch.inputs = ids;
    batch.targets.assign(ids.begin() + 1, ids.end());
    batch.targets.push_back(kIgnoredTarget);
    for (std::int32_t i = 0; i < rows; ++i) {
      batch.positions.push_back(i);
      batch.row_ids.push_back(i);
    }
    batch.segment_offsets = {0, rows};
    Step step{activations, scratch, Queue{}};
    if (file) {
      logits_memory.reset();
      const Tensor logits = logits_memory.allocate(Shape{rows, config.vocab_size},
                                                   accumulate_dtype(model.params().dtype()));
      model.logits(step, batch_of(batch), logits);
      file->write(static_cast<std::int64_t>(n), logits);
    }
    const CrossEntropySums sums = model.evaluate(step, batch_of(batch));
    nll += sums.nll;
    tokens += sums.rows;
  }
  if (file) file->commit();
  return result_of(nll, tokens, 0);
}

}  // namespace t2r
