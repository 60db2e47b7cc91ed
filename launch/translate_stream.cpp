#include "launch/translate_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <istream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <ostream>

#include "core/base/log.h"
#include "core/train/model_folder.h"
#include "core/train/unicode_text.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

using Clock = std::chrono::steady_clock;

struct Line {
  std::string text;
  std::vector<std::int32_t> tokens;
  std::vector<Hypothesis> hypotheses;
};

/// The next lines of the stream, at most `most`, tokenised. `number`: lines before them.
std::vector<Line> read_some(std::istream& in, std::int64_t most, std::int64_t number,
                            const Tokenizer& tokenizer, const ModelConfig& config) {
  std::vector<Line> lines;
  std::string text;
  while (std::ssize(lines) < most && std::getline(in, text)) {
    const std::int64_t place = number + std::ssize(lines) + 1;
    if (text.ends_with('\r')) text.pop_back();
    check_usage(find_invalid_utf8(text) < 0, "line {} of the input is not valid UTF-8", place);
    Line line{text, {}, {}};
    tokenizer.encode_to(text, line.tokens);
    // White space alone may have tokens, or none: it has no translation.
    const auto shown = [](char32_t c) { return !is_white_space(c); };
    if (!std::ranges::any_of(decode_utf8(text), shown)) line.tokens.clear();
    if (!line.tokens.empty()) {
      const std::int64_t longest = config.max_positions - (config.source_eos ? 1 : 0);
      if (std::ssize(line.tokens) > longest) {
        warn(
            "line {} has {} tokens, more than the {} that the model can read: the rest is left out",
            place, line.tokens.size(), longest);
        line.tokens.resize(static_cast<std::size_t>(longest));
      }
      if (config.source_eos) line.tokens.push_back(tokenizer.eos());
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

/// Translates this replica's part of the lines: batches of similar length, of which the replicas
/// take turns. `number`: lines before them.
void translate_lines(TranslationDecoder& decoder, std::vector<Line>& lines,
                     const TranslationOptions& options, std::int64_t number, const Comm& replicas) {
  std::vector<std::size_t> order(lines.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return lines[a].tokens.size() > lines[b].tokens.size();
  });
  int batch = 0;
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end, ++batch) {
    std::vector<std::vector<std::int32_t>> sources;
    std::vector<std::uint64_t> numbers;
    std::int64_t tokens = 0;
    for (; end < order.size(); ++end) {
      const Line& line = lines[order[end]];
      tokens += std::ssize(line.tokens);
      if (end > begin && tokens > options.batch_tokens) break;
      sources.push_back(line.tokens);
      numbers.push_back(static_cast<std::uint64_t>(number) + order[end]);
    }
    if (batch % replicas.size() != replicas.rank()) continue;
    auto found = translate(decoder, sources, options.search, numbers);
    for (std::size_t i = begin; i < end; ++i)
      lines[order[i]].hypotheses = std::move(found[i - begin]);
  }
}

/// One line of output a hypothesis.
std::string written(const Line& line, const Tokenizer& tokenizer,
                    const TranslationOptions& options) {
  if (options.json) {
    nlohmann::ordered_json out{{"source", line.text}};
    for (const Hypothesis& h : line.hypotheses)
      out["translations"].push_back({{"text", tokenizer.decode(h.tokens)},
                                     {"score", h.score},
                                     {"log_probability", h.log_probability},
                                     {"tokens", h.tokens.size()}});
    return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  std::string text;
  for (const Hypothesis& h : line.hypotheses) {
    if (options.scores) text += fmt::format("{:.6f}\t", h.score);
    std::string sentence = tokenizer.decode(h.tokens);
    std::replace(sentence.begin(), sentence.end(), '\n', ' ');  // a sentence is a line
    text += sentence + "\n";
  }
  return text;
}

/// What is written for each line, on every replica: each contributes the lines that it translated.
std::vector<std::string> gather(const std::vector<Line>& lines, const Tokenizer& tokenizer,
                                const TranslationOptions& options, Comm& replicas) {
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  nlohmann::json mine = nlohmann::json::object();
  for (std::size_t i = 0; i < lines.size(); ++i)
    if (!lines[i].hypotheses.empty())
      mine[std::to_string(i)] = written(lines[i], tokenizer, options);
  std::vector<std::string> texts(lines.size());
  for (int rank = 0; rank < replicas.size(); ++rank) {
    const bool own = rank == replicas.rank();
    const auto part = nlohmann::json::parse(
        replicas.broadcast_text(own ? mine.dump(-1, ' ', false, kReplace) : std::string(), rank));
    for (const auto& [place, text] : part.items()) texts[std::stoul(place)] = text;
  }
  return texts;
}

}  // namespace

Translator Translator::load(const std::string& folder, DType dtype,
                            const TensorParallel& parallel) {
  const ModelConfig config = read_model_config(folder);
  check_usage(config.encoder_decoder(),
              "{} is a language model, which cannot translate: use 't2r generate'", folder);
  const Tokenizer target = Tokenizer::load(folder);
  const std::string source_file = folder + "/source.tokenizer.model";
  const Tokenizer source =
      std::filesystem::exists(source_file) ? Tokenizer::load(source_file) : target;
  check(
      target.vocab_size() == config.vocab_size && source.vocab_size() == config.source_vocabulary(),
      "the tokenizers in {} have {} and {} entries, the model {} and {}: they do not belong "
      "together",
      folder, source.vocab_size(), target.vocab_size(), config.source_vocabulary(),
      config.vocab_size);
  return {load_model(folder, dtype, TrainedPart::nothing, parallel), source, target};
}

void check_options(const TranslationOptions& options) {
  check_usage(options.batch_tokens >= 1 && options.buffer_lines >= 1,
              "--batch-tokens {} and --buffer-lines {} must be at least 1", options.batch_tokens,
              options.buffer_lines);
}

void translate_stream(std::istream& in, std::ostream& out, const Translator& translator,
                      TranslationOptions options, Mesh& mesh) {
  options.search.bos = translator.target.bos();
  options.search.eos = translator.target.eos();
  if (translator.target.pad() != options.search.eos)
    options.search.banned = translator.target.pad();
  TranslationDecoder decoder(*translator.model);
  const auto start = Clock::now();
  std::int64_t number = 0;
  const auto show = [&](bool last) {
    if (mesh.world.rank() != 0) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    progress(fmt::format("translated {} sentences in {:.2f} s, {:.1f} a second", number, seconds,
                         static_cast<double>(number) / seconds),
             last);
  };
  for (;;) {
    std::vector<Line> lines =
        read_some(in, options.buffer_lines, number, translator.source, translator.model->config());
    if (lines.empty()) break;
    if (number > 0) show(false);
    translate_lines(decoder, lines, options, number, *mesh.dp);
    const std::vector<std::string> texts = gather(lines, translator.target, options, *mesh.dp);
    number += std::ssize(lines);
    if (mesh.world.rank() == 0) {
      for (const std::string& text : texts) out << text;
      out.flush();
      check(out.good(), "cannot write the translations: is the disk full?");
    }
  }
  check_usage(number > 0, "the input is empty: it needs one sentence a line");
  show(true);
}

void add_search_options(CLI::App& app, TranslationOptions& options) {
  BeamSearchOptions& search = options.search;
  app.add_option("--beam", search.beam, "Hypotheses kept a sentence (1: greedy)");
  app.add_option("--length-penalty", search.length_penalty,
                 "alpha: a score is the log probability / ((5 + length) / 6)^alpha");
  app.add_option("--max-length-a", search.max_length_a,
                 "A translation has at most this times the source's tokens, plus --max-length-b");
  app.add_option("--max-length-b", search.max_length_b, "See --max-length-a");
  app.add_option("--batch-tokens", options.batch_tokens, "Source tokens decoded at once");
}

}  // namespace t2r
