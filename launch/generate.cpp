// t2r generate: continues prompts, with recurrent states where attention was swapped.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/base/log.h"
#include "core/model/decoder.h"
#include "core/model/sampling.h"
#include "core/train/model_folder.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"
#include "launch/commands.h"
#include "launch/model_options.h"
#include "launch/sample_dataset.h"

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model, prompt_file, precision = "fp32";
  SampleOptions samples;
  std::vector<std::string> prompts;
  SamplingOptions sampling;
  std::int64_t max_tokens = 200, batch = 8;
  int tp = 1, threads = 0;
  bool ignore_end = false, json = false;
};

/// One prompt and what was made of it.
struct Sequence {
  std::string prompt;
  std::vector<std::int32_t> prompt_ids, ids;
  std::string text;  // of ids
  bool done = false;
};

struct Totals {
  double prefill_seconds = 0, decoding_seconds = 0;
  std::int64_t prompt_tokens = 0, steps_tokens = 0, state_bytes = 0;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The prompts of --prompt, and the lines of --prompt-file.
std::vector<Sequence> read_prompts(const Options& options, const Tokenizer& tokenizer) {
  std::vector<std::string> prompts = options.prompts;
  if (!options.prompt_file.empty())
    for_each_document(options.prompt_file, DocumentSplit::line,
                      [&](const Document& line) { prompts.emplace_back(line.text); });
  check_usage(!prompts.empty(), "no prompt given: use --prompt or --prompt-file");
  std::vector<Sequence> sequences;
  for (const std::string& prompt : prompts) {
    check_utf8(prompt, "a prompt");
    Sequence sequence;
    sequence.prompt = prompt;
    if (tokenizer.bos() >= 0) sequence.prompt_ids.push_back(tokenizer.bos());
    tokenizer.encode_to(prompt, sequence.prompt_ids);
    check_usage(!sequence.prompt_ids.empty(),
                "an empty prompt: this tokenizer has no <s> to start a text with");
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

/// The text that the last token adds. Some tokenizers take the space in front of a text off again,
/// so that a token alone is not what it is behind another.
std::string text_of_last(const Tokenizer& tokenizer, const Sequence& sequence) {
  std::vector<std::int32_t> pair;
  if (sequence.ids.size() > 1)
    pair.push_back(sequence.ids[sequence.ids.size() - 2]);
  else if (!sequence.prompt_ids.empty())
    pair.push_back(sequence.prompt_ids.back());
  const std::size_t known = tokenizer.decode(pair).size();
  pair.push_back(sequence.ids.back());
  return tokenizer.decode(pair).substr(known);
}

/// Continues sequences [begin, end) together. `emit` gets each new piece of text of a sequence.
void decode_group(const Transformer& model, const Tokenizer& tokenizer, const Options& options,
                  std::vector<Sequence>& sequences, std::size_t begin, std::size_t end,
                  const std::function<void(std::size_t, const std::string&)>& emit,
                  Totals& totals) {
  std::vector<std::vector<std::int32_t>> prompts;
  std::int64_t longest = 0;
  for (std::size_t i = begin; i < end; ++i) {
    prompts.push_back(sequences[i].prompt_ids);
    longest = std::max(longest, static_cast<std::int64_t>(prompts.back().size()));
    totals.prompt_tokens += static_cast<std::int64_t>(prompts.back().size());
  }
  DecoderOptions decoder_options;
  decoder_options.batch = static_cast<std::int64_t>(end - begin);
  decoder_options.capacity = longest + options.max_tokens;
  Decoder decoder(model, decoder_options);

  auto start = Clock::now();
  Tensor logits = of_tokens(decoder.prefill(prompts), tokenizer);
  totals.prefill_seconds += seconds_since(start);
  start = Clock::now();
  std::vector<std::int32_t> tokens(end - begin);
  for (std::int64_t n = 0; n < options.max_tokens; ++n) {
    bool any = false;
    for (std::size_t i = begin; i < end; ++i) {
      Sequence& sequence = sequences[i];
      const auto row = static_cast<std::int64_t>(i - begin);
      const std::int32_t token =
          sample_token(logits, row, options.sampling, i, static_cast<std::uint64_t>(n));
      tokens[i - begin] = token;  // a finished sequence is fed on, but no longer read
      if (sequence.done) continue;
      if (token == tokenizer.eos() && !options.ignore_end) {
        sequence.done = true;
        continue;
      }
      sequence.ids.push_back(token);
      const std::string piece = text_of_last(tokenizer, sequence);
      sequence.text += piece;
      emit(i, piece);
      any = true;
      ++totals.steps_tokens;
    }
    if (!any || n + 1 == options.max_tokens) break;
    logits = of_tokens(decoder.step(tokens), tokenizer);
  }
  totals.decoding_seconds += seconds_since(start);
  totals.state_bytes = std::max(totals.state_bytes, decoder.state_bytes());
}

void print_json(const std::vector<Sequence>& sequences, const Totals& totals) {
  nlohmann::ordered_json out;
  for (const Sequence& sequence : sequences)
    out["sequences"].push_back({{"prompt", sequence.prompt},
                                {"text", sequence.text},
                                {"tokens", sequence.ids.size()},
                                {"token_ids", sequence.ids},
                                {"ended", sequence.done}});
  out["tokens"] = totals.steps_tokens;
  out["prompt_tokens"] = totals.prompt_tokens;
  out["tokens_per_second"] =
      static_cast<double>(totals.steps_tokens) / std::max(totals.decoding_seconds, 1e-9);
  out["prefill_seconds"] = totals.prefill_seconds;
  out["decoding_seconds"] = totals.decoding_seconds;
  out["state_bytes"] = totals.state_bytes;
  // Half a character at the end of a text is replaced, as JSON has no place for it.
  fmt::print("{}\n", out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

/// --dataset: texts to train on instead of text to read.
void draw_dataset(const Mesh& mesh, const Transformer& model, const Tokenizer& tokenizer,
                  const Options& options) {
  check_usage(options.prompts.empty() && options.prompt_file.empty() && !options.json,
              "--dataset draws texts from nothing: leave --prompt, --prompt-file and --json");
  SampleOptions samples = options.samples;
  samples.max_tokens = options.max_tokens;
  samples.batch = options.batch;
  samples.sampling = options.sampling;
  sample_dataset(mesh, model, tokenizer, samples);
}

int run(Session& session, Options options) {
  const bool samples = !options.samples.out.empty();
  if (options.tp == 1 && !samples) session.require_single("generate");
  check_usage(options.max_tokens >= 1, "--max-tokens is {}: it must be at least 1",
              options.max_tokens);
  check_usage(options.batch >= 1, "--batch is {}: it must be at least 1", options.batch);
  const SamplingOptions& sampling = options.sampling;
  check_usage(
      sampling.temperature >= 0 && sampling.top_k >= 0 && sampling.top_p > 0 && sampling.top_p <= 1,
      "--temperature {}, --top-k {}, --top-p {}: the first two are at least 0, the last "
      "lies above 0 and at most at 1",
      sampling.temperature, sampling.top_k, sampling.top_p);
  session.set_threads(options.threads);
  const std::string folder = model_folder(options.model);
  check_usage(!read_model_config(folder).encoder_decoder(),
              "{} is a translation model, which continues no prompts: use 't2r translate'", folder);
  const Tokenizer tokenizer = Tokenizer::load(folder);
  const Mesh mesh = session.mesh(options.tp);
  check_usage(mesh.dp->size() == 1 || samples,
              "generate runs one model: start it on the {} ranks of --tp", options.tp);
  const bool prints = mesh.world.rank() == 0;
  const auto model = load_model(folder, parse_dtype(options.precision), TrainedPart::nothing,
                                TensorParallel(*mesh.tp));
  check(tokenizer.vocab_size() <= model->config().vocab_size,
        "the tokenizer in {} has {} entries, the model only {}: they do not belong together",
        folder, tokenizer.vocab_size(), model->config().vocab_size);
  if (samples) {
    draw_dataset(mesh, *model, tokenizer, options);
    return kExitDone;
  }
  std::vector<Sequence> sequences = read_prompts(options, tokenizer);

  // One sequence at a time streams its text; several come out whole, in order.
  const bool live = prints && !options.json && (sequences.size() == 1 || options.batch == 1);
  Totals totals;
  const auto step = static_cast<std::size_t>(options.batch);
  for (std::size_t begin = 0; begin < sequences.size(); begin += step) {
    const std::size_t end = std::min(begin + step, sequences.size());
    if (live) fmt::print("{}", sequences[begin].prompt);
    decode_group(
        *model, tokenizer, options, sequences, begin, end,
        [&](std::size_t, const std::string& piece) {
          if (!live) return;
          std::fwrite(piece.data(), 1, piece.size(), stdout);
          std::fflush(stdout);
        },
        totals);
    if (live) fmt::print("\n");
    for (std::size_t i = begin; i < end && prints && !live && !options.json; ++i)
      fmt::print("{}{}\n", sequences[i].prompt, tokenizer.decode(sequences[i].ids));
  }
  if (options.json && prints) print_json(sequences, totals);
  info("{} tokens in {:.2f} s ({:.1f} tokens/s), state of {} bytes", totals.steps_tokens,
       totals.decoding_seconds,
       static_cast<double>(totals.steps_tokens) / std::max(totals.decoding_seconds, 1e-9),
       totals.state_bytes);
  return kExitDone;
}

}  // namespace

Run add_generate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--model", options->model, "Model (or run) folder")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--prompt", options->prompts, "Texts to continue")->default_str("");
  app.add_option("--prompt-file", options->prompt_file, "File of prompts, one a line")
      ->type_name("FILE");
  app.add_option("--max-tokens", options->max_tokens,
                 "Most tokens to add to a prompt; of a drawn text, <s> included");
  app.add_option("--temperature", options->sampling.temperature, "0: always the likeliest token");
  app.add_option("--top-k", options->sampling.top_k, "Draw from the k likeliest tokens (0: all)");
  app.add_option("--top-p", options->sampling.top_p,
                 "Draw from the likeliest tokens that together have this probability");
  app.add_option("--seed", options->sampling.seed, "Seed of the draws");
  app.add_option("--batch", options->batch, "Prompts decoded at once");
  app.add_flag("--ignore-end", options->ignore_end, "Go on after the end of a document");
  app.add_option("--precision", options->precision, "fp32, bf16 or fp64");
  app.add_option("--tp", options->tp, "Ranks that hold the model together, a part each");
  app.add_option("--threads", options->threads, "Threads (0: one a core)");
  app.add_flag("--json", options->json, "Print text, tokens, speed and state size as JSON");
  const char* group = "Texts to train on";
  app.add_option("--dataset", options->samples.out,
                 "Write a dataset of texts that the model draws from nothing, instead of "
                 "continuing prompts (with a temperature of 1 its own distribution); on several "
                 "ranks each draws its share")
      ->type_name("FOLDER")
      ->group(group);
  app.add_option("--texts", options->samples.texts, "Texts to draw")->group(group);
  app.add_option("--data", options->samples.base,
                 "Dataset whose text goes into the new one too: its train split before the drawn "
                 "texts, its other splits as they are")
      ->type_name("FOLDER")
      ->group(group);
  app.add_flag("--overwrite", options->samples.overwrite, "Replace a dataset that is there")
      ->group(group);
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
