#include "data/gguf_tokenizer.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"

namespace t2r {
namespace {

using Json = nlohmann::json;

const std::string kPrefix = "tokenizer.ggml.";

// Pre-tokenizers of the tokenizer.json files that these models come with.
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json byte_level(bool regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", regex}};
}

Json in_order(Json first, Json second) {
  return {{"type", "Sequence"}, {"pretokenizers", {std::move(first), std::move(second)}}};
}

Json split(const char* pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json pre_tokenizer(const std::string& pre, const std::string& where) {
  if (pre == "gpt-2") return byte_level(true);
  if (pre == "smollm" || pre == "starcoder")
    return in_order({{"type", "Digits"}, {"individual_digits", true}}, byte_level(true));
  if (pre == "qwen2") return in_order(split(kQwen2Pattern), byte_level(false));
  if (pre == "llama-bpe") return in_order(split(kLlama3Pattern), byte_level(false));
  fail(
      "{}: its vocabulary cuts words as '{}', which is not supported: gpt-2, smollm, starcoder, "
      "qwen2 "
      "and llama-bpe are; use the tokenizer.json of the model",
      where, pre);
}

TokenizerFiles byte_bpe_files(const GgufVocabulary& vocabulary, const std::string& where) {
  Json vocab = Json::object(), added = Json::array();
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    const PieceType type = vocabulary.types[id];
    if (type == PieceType::control || type == PieceType::user_defined)
      added.push_back({{"id", id},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type == PieceType::control}});
    check(vocab.emplace(token, id).second, "{}: the token '{}' is listed twice", where, token);
  }
  const bool qwen2 = vocabulary.pre == "qwen2";
  Json json{{"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens", std::move(added)},
            {"normalizer", qwen2 ? Json{{"type", "NFC"}} : Json()},
            {"pre_tokenizer", pre_tokenizer(vocabulary.pre, where)},
            {"post_processor", nullptr},
            {"decoder", byte_level(true)},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", nullptr},
              {"continuing_subword_prefix", nullptr},
              {"end_of_word_suffix", nullptr},
              {"fuse_unk", false},
              {"byte_fallback", false},
              {"ignore_merges", vocabulary.pre == "llama-bpe"},
              {"vocab", std::move(vocab)},
              {"merges", vocabulary.merges}}}};
  const auto token = [&](std::int64_t id) {
    return id < 0 ? Json() : Json(vocabulary.tokens[static_cast<std::size_t>(id)]);
  };
  const Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
                    {"bos_token", token(vocabulary.bos)},
                    {"eos_token", token(vocabulary.eos)}};
  return {"tokenizer.json", json.dump() + "\n", config.dump(2) + "\n"};
}

TokenizerFiles sentencepiece_files(const GgufVocabulary& vocabulary, const std::string& where) {
  check(!vocabulary.scores.empty(), "{}: its vocabulary has no scores", where);
  std::vector<SentencePieceEntry> entries;
  for (std::size_t id = 0; id < vocabulary.tokens.size(); ++id)
    entries.push_back({vocabulary.tokens[id], vocabulary.scores[id], vocabulary.types[id]});
  const SentencePieceOptions options{.dummy_prefix = vocabulary.space_prefix,
                                     .bos = vocabulary.bos,
                                     .eos = vocabulary.eos,
                                     .pad = vocabulary.padding};
  return {"tokenizer.model", sentencepiece_model(entries, options, where), {}};
}

}  // namespace

GgufVocabulary gguf_vocabulary(const GgufFile& file) {
  GgufVocabulary vocabulary;
  const auto has = [&](const char* name) { return file.has_value(kPrefix + name); };
  vocabulary.model = file.text(kPrefix + "model");
  if (has("pre")) vocabulary.pre = file.text(kPrefix + "pre");
  vocabulary.tokens = file.texts(kPrefix + "tokens");
  const std::int64_t count = std::ssize(vocabulary.tokens);
  if (has("scores"))
    for (double score : file.reals(kPrefix + "scores"))
      vocabulary.scores.push_back(static_cast<float>(score));
  vocabulary.types.resize(vocabulary.tokens.size(), PieceType::normal);
  if (has("token_type")) {
    const auto& types = file.numbers(kPrefix + "token_type");
    check(std::ssize(types) == count, "{}: {} tokens, but {} kinds of them", file.path(), count,
          types.size());
    for (std::size_t id = 0; id < types.size(); ++id) {
      check(types[id] >= 1 && types[id] <= 6, "{}: the token {} is of the unknown kind {}",
            file.path(), id, types[id]);
      vocabulary.types[id] = static_cast<PieceType>(types[id]);
    }
  }
  if (has("merges")) vocabulary.merges = file.texts(kPrefix + "merges");
  check(vocabulary.scores.empty() || std::ssize(vocabulary.scores) == count,
        "{}: {} tokens, but {} scores", file.path(), count, vocabulary.scores.size());
  const auto id = [&](const char* name) -> std::int64_t {
    if (!has(name)) return -1;
    const std::int64_t value = file.integer(kPrefix + name);
    check(value >= -1 && value < count, "{}: {}{} is {}, but there are {} tokens", file.path(),
          kPrefix, name, value, count);
    return value;
  };
  vocabulary.bos = id("bos_token_id");
  vocabulary.eos = id("eos_token_id");
  vocabulary.unknown = id("unknown_token_id");
  vocabulary.padding = id("padding_token_id");
  vocabulary.add_bos = has("add_bos_token") && file.truth(kPrefix + "add_bos_token");
  vocabulary.add_eos = has("add_eos_token") && file.truth(kPrefix + "add_eos_token");
  if (has("add_space_prefix")) vocabulary.space_prefix = file.truth(kPrefix + "add_space_prefix");
  return vocabulary;
}

TokenizerFiles tokenizer_files(const GgufVocabulary& vocabulary, const std::string& where) {
  if (vocabulary.model == "gpt2") return byte_bpe_files(vocabulary, where);
  if (vocabulary.model == "llama") return sentencepiece_files(vocabulary, where);
  fail("{}: its vocabulary is of the kind '{}': gpt2 and llama are supported", where,
       vocabulary.model);
}

}  // namespace t2r
