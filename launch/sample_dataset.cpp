#include "launch/sample_dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/base/log.h"
#include "core/model/decoder.h"
#include "core/train/collective_error.h"
#include "core/train/metrics.h"
#include "data/atomic_file.h"
#include "data/dataset.h"
#include "data/prepare_folder.h"
#include "data/shard.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Draws `count` texts whose numbers begin at `first`, each with its <s>.
std::vector<std::vector<std::int32_t>> draw(const Transformer& model, const Tokenizer& tokenizer,
                                            const SampleOptions& options, std::int64_t first,
                                            std::int64_t count) {
  std::vector<std::vector<std::int32_t>> texts(static_cast<std::size_t>(count), {tokenizer.bos()});
  Decoder decoder(model, {.batch = count, .capacity = options.max_tokens});
  Tensor logits = of_tokens(decoder.prefill(texts), tokenizer);
  std::vector<bool> done(texts.size(), false);
  std::vector<std::int32_t> tokens(texts.size());
  for (std::int64_t n = 1; n < options.max_tokens; ++n) {
    bool any = false;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      tokens[i] =
          sample_token(logits, row, options.sampling, static_cast<std::uint64_t>(first + row),
                       static_cast<std::uint64_t>(n - 1));
      if (done[i]) continue;  // fed on, but no longer read
      done[i] = tokens[i] == tokenizer.eos() || tokens[i] == tokenizer.bos();
      if (tokens[i] != tokenizer.bos()) texts[i].push_back(tokens[i]);
      any = any || !done[i];
    }
    if (!any || n + 1 == options.max_tokens) break;
    logits = of_tokens(decoder.step(tokens), tokenizer);
  }
  return texts;
}

void copy_documents(const TokenStream& from, ShardWriter& to) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t d = 0; d < from.documents(); ++d) {
    const std::int64_t begin = from.document_begin(d), end = from.document_begin(d + 1);
    tokens.resize(static_cast<std::size_t>(end - begin));
    from.copy_tokens(begin, end, tokens.data());
    to.add_document(tokens);
  }
}

/// The new dataset, as every rank sees it.
class NewDataset {
 public:
  NewDataset(const Mesh& mesh, const Tokenizer& tokenizer, const SampleOptions& options)
      : options_(options), identity_{tokenizer.vocab_size(), tokenizer.sha256()} {
    check_usage(options.texts >= 1, "--texts is {}: it must be at least 1", options.texts);
    check_usage(options.max_tokens >= 2, "--max-tokens is {}: a text has at least 2, <s> included",
                options.max_tokens);
    check_usage(tokenizer.bos() >= 0,
                "this tokenizer has no <s>: texts cannot be drawn from nothing");
    check_usage(options.overwrite || !fs::exists(fs::path(options.out) / kDatasetFile),
                "{} already holds a dataset: choose another folder, or give --overwrite",
                options.out);
    if (!options.base.empty()) {
      base_.emplace(Dataset::open(options.base));
      check_usage(!base_->info().translation(),
                  "{} holds sentence pairs: texts are drawn beside plain text", options.base);
      check_usage(base_->tokenizer().sha256() == tokenizer.sha256(),
                  "{} was made with another tokenizer than the model's", options.base);
      check_usage(!fs::exists(options.out) || !fs::equivalent(options.base, options.out),
                  "{} cannot be its own base: choose another folder", options.out);
      info_ = base_->info();
    }
    info_.vocab_size = identity_.vocab_size;
    info_.tokenizer_file = tokenizer.file_name();
    info_.tokenizer_sha256 = identity_.tokenizer_sha256;
    if (!base_) info_.document_split = "sampled";
    first_shard_ = base_ && base_->has_split("train") ? 1 : 0;
    shards_ = first_shard_ + mesh.dp->size();
    on_leader(mesh.world, [&] {
      make_folders(options.out);
      remove_dataset_files(options.out);
      tokenizer.save(options.out);
      if (!base_) return;
      for (const auto& [split, figures] : base_->info().splits) {
        ShardWriter writer(path(split, 0, split == "train" ? shards_ : 1), identity_);
        copy_documents(base_->stream(split), writer);
        writer.finish();
        info_.splits[split].shards = 1;
      }
    });
  }

  ShardWriter samples(int rank) const {
    return {path("train", first_shard_ + rank, shards_), identity_};
  }

  /// Sums over the ranks; makes the folder a dataset. Collective.
  void finish(const Mesh& mesh, SplitInfo drawn) {
    std::array<std::int64_t, 4> sums{drawn.documents, drawn.tokens, drawn.words, drawn.bytes};
    if (mesh.tp->rank() != 0) sums = {};
    mesh.world.barrier();  // every shard is there
    for (std::int64_t& sum : sums) sum = mesh.world.all_reduce_value(sum, ReduceOp::sum);
    on_leader(mesh.world, [&] {
      SplitInfo& train = info_.splits["train"];
      train.shards = shards_;
      train.documents += sums[0];
      train.tokens += sums[1];
      train.words += sums[2];
      train.bytes += sums[3];
      write_dataset_info(options_.out, info_);
    });
    info("{}: {} texts of {} tokens were drawn", options_.out, sums[0], sums[1]);
  }

 private:
  std::string path(const std::string& split, std::int64_t shard, std::int64_t shards) const {
    return (fs::path(options_.out) / shard_file_name(split, shard, shards)).string();
  }

  const SampleOptions& options_;
  ShardIdentity identity_;
  std::optional<Dataset> base_;
  DatasetInfo info_;
  std::int64_t first_shard_ = 0, shards_ = 1;
};

}  // namespace

Tensor of_tokens(const Tensor& logits, const Tokenizer& tokenizer) {
  return logits.column_range(0, tokenizer.vocab_size());
}

void sample_dataset(const Mesh& mesh, const Transformer& model, const Tokenizer& tokenizer,
                    const SampleOptions& options) {
  NewDataset dataset(mesh, tokenizer, options);
  check_usage(options.texts >= mesh.dp->size(), "{} texts for {} data-parallel ranks: draw more",
              options.texts, mesh.dp->size());
  const std::int64_t begin = options.texts * mesh.dp->rank() / mesh.dp->size();
  const std::int64_t end = options.texts * (mesh.dp->rank() + 1) / mesh.dp->size();
  ShardWriter writer = dataset.samples(mesh.dp->rank());
  SplitInfo drawn;
  const auto start = Clock::now();
  for (std::int64_t first = begin; first < end; first += options.batch) {
    const std::int64_t count = std::min(options.batch, end - first);
    for (const std::vector<std::int32_t>& text : draw(model, tokenizer, options, first, count)) {
      writer.add_document(text);
      const std::string words = tokenizer.decode(text);
      drawn.words += count_words(words);
      drawn.bytes += std::ssize(words);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const auto done = static_cast<double>(first + count - begin);
    progress(fmt::format("drawing texts: {} of {}, {:.0f} tokens/s, {} left", first + count - begin,
                         end - begin, static_cast<double>(writer.tokens()) / seconds,
                         duration_text(seconds / done * static_cast<double>(end - first - count))),
             first + count == end);
  }
  drawn.documents = writer.documents();
  drawn.tokens = writer.tokens();
  if (mesh.tp->rank() == 0) writer.finish();
  dataset.finish(mesh, drawn);
}

}  // namespace t2r
