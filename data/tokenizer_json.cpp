// Form: tokenizer.json of https://github.com/huggingface/tokenizers. Merges of a BPE model from its
// pieces: every split of a piece into two others, the best piece first.
#include "data/tokenizer_json.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/byte_bpe.h"
#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"

namespace t2r {
namespace {

using Json = nlohmann::ordered_json;
using Model = SentencePieceOptions::Model;

constexpr const char* kSpaceMark = "\xE2\x96\x81";

/// What a model of SentencePiece says beside its pieces.
struct Rules {
  std::uint64_t model = 1, byte_fallback = 0;                     // trainer_spec
  std::uint64_t dummy_prefix = 1, remove_spaces = 1, escape = 1;  // normalizer_spec
  bool normalizes = false, space_behind = false;
  std::vector<bool> user_defined;  // of each piece: found in the text whatever stands around it
};

/// Fields of a message in the wire format of Protocol Buffers: f(number, value, bytes). Ends at
/// anything damaged.
template <class F>
void for_each_field(std::string_view bytes, F f) {
  const auto varint = [&]() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes.front());
      bytes.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) break;
    }
    return value;
  };
  while (!bytes.empty()) {
    const std::uint64_t tag = varint();
    std::uint64_t value = 0, length = 0;
    switch (tag & 7) {
      case 0:
        value = varint();
        break;
      case 1:
        length = 8;
        break;
      case 2:
        length = varint();
        break;
      case 5:
        length = 4;
        break;
      default:
        return;
    }
    if (length > bytes.size()) return;
    f(tag >> 3, value, bytes.substr(0, length));
    bytes.remove_prefix(length);
  }
}

/// Numbers of the fields: sentencepiece_model.proto of https://github.com/google/sentencepiece.
Rules read_rules(std::string_view content) {
  Rules rules;
  for_each_field(content, [&](std::uint64_t message, std::uint64_t, std::string_view inner) {
    if (message == 1) {
      rules.user_defined.push_back(false);
      for_each_field(inner, [&](std::uint64_t field, std::uint64_t value, std::string_view) {
        if (field == 3)
          rules.user_defined.back() = value == static_cast<std::uint64_t>(PieceType::user_defined);
      });
    }
    if (message == 2)
      for_each_field(inner, [&](std::uint64_t field, std::uint64_t value, std::string_view) {
        if (field == 3) rules.model = value;
        if (field == 24) rules.space_behind = value != 0;
        if (field == 35) rules.byte_fallback = value;
      });
    if (message == 3)
      for_each_field(inner, [&](std::uint64_t field, std::uint64_t value, std::string_view bytes) {
        if (field == 2) rules.normalizes = !bytes.empty();
        if (field == 3) rules.dummy_prefix = value;
        if (field == 4) rules.remove_spaces = value;
        if (field == 5) rules.escape = value;
      });
  });
  return rules;
}

Json added_token(std::int64_t id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// Puts `bos` in front of each text.
Json begin_with(const std::string& bos, std::int64_t id) {
  const Json token = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const auto sequence = [](const char* name, int type) {
    return Json{{"Sequence", {{"id", name}, {"type_id", type}}}};
  };
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({token, sequence("A", 0)})},
          {"pair", Json::array({token, sequence("A", 0), sequence("B", 1)})},
          {"special_tokens",
           {{bos, {{"id", bos}, {"ids", Json::array({id})}, {"tokens", Json::array({bos})}}}}}};
}

Json shell() {
  return {{"version", "1.0"},          {"truncation", nullptr},
          {"padding", nullptr},        {"added_tokens", Json::array()},
          {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
          {"post_processor", nullptr}, {"decoder", nullptr},
          {"model", nullptr}};
}

TokenizerJson finish(const Json& tokenizer, Json marks) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false}};
  config.update(marks);
  if (config.contains("eos_token")) config["pad_token"] = config["eos_token"];
  return {tokenizer.dump() + "\n", config.dump(2) + "\n"};
}

TokenizerJson bytes_json() {
  const Tokenizer bytes = Tokenizer::bytes();
  Json out = shell(), vocabulary = Json::object();
  for (std::size_t byte = 0; byte < 256; ++byte) vocabulary[byte_characters()[byte]] = byte;
  vocabulary["<s>"] = bytes.bos();
  vocabulary["</s>"] = bytes.eos();
  out["added_tokens"] = {added_token(bytes.bos(), "<s>", true),
                         added_token(bytes.eos(), "</s>", true)};
  out["pre_tokenizer"] = {{"type", "ByteLevel"},
                          {"add_prefix_space", false},
                          {"trim_offsets", true},
                          {"use_regex", false}};
  out["post_processor"] = begin_with("<s>", bytes.bos());
  out["decoder"] = out["pre_tokenizer"];
  out["model"] = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}};
  return finish(out, {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
}

using Processor = sentencepiece::SentencePieceProcessor;

bool is_text(const Processor& model, int id) {
  return !model.IsControl(id) && !model.IsUnknown(id) && !model.IsByte(id) && !model.IsUnused(id);
}

Json merges_of(const Processor& model) {
  std::vector<int> order;
  for (int id = 0; id < model.GetPieceSize(); ++id)
    if (is_text(model, id)) order.push_back(id);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return model.GetScore(a) > model.GetScore(b); });
  const auto known = [&](const std::string& piece) {
    const int id = model.PieceToId(piece);
    return is_text(model, id) && model.IdToPiece(id) == piece;
  };
  Json merges = Json::array();
  for (const int id : order) {
    const std::string& piece = model.IdToPiece(id);
    for (std::size_t at = 1; at < piece.size(); ++at) {
      if ((static_cast<unsigned char>(piece[at]) & 0xC0) == 0x80) continue;  // inside a character
      const std::string left = piece.substr(0, at), right = piece.substr(at);
      if (known(left) && known(right)) merges.push_back({left, right});
    }
  }
  return merges;
}

Json model_json(const Processor& model, const Rules& rules) {
  const bool byte_fallback = rules.byte_fallback != 0;
  if (rules.model == static_cast<std::uint64_t>(Model::unigram)) {
    Json vocabulary = Json::array();
    for (int id = 0; id < model.GetPieceSize(); ++id)
      vocabulary.push_back({model.IdToPiece(id), model.GetScore(id)});
    return {{"type", "Unigram"},
            {"unk_id", model.unk_id()},
            {"vocab", vocabulary},
            {"byte_fallback", byte_fallback}};
  }
  Json vocabulary = Json::object();
  for (int id = 0; id < model.GetPieceSize(); ++id) vocabulary[model.IdToPiece(id)] = id;
  const bool bpe = rules.model == static_cast<std::uint64_t>(Model::bpe);
  return {{"type", "BPE"},       {"unk_token", model.IdToPiece(model.unk_id())},
          {"fuse_unk", bpe},     {"byte_fallback", byte_fallback},
          {"vocab", vocabulary}, {"merges", bpe ? merges_of(model) : Json::array()}};
}

Json replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

std::optional<TokenizerJson> sentencepiece_json(const std::string& content,
                                                const std::string& path) {
  Processor model;
  check(model.LoadFromSerializedProto(content).ok(), "{} is not a SentencePiece model", path);
  const Rules rules = read_rules(content);
  if (rules.normalizes || rules.remove_spaces || !rules.escape || rules.space_behind ||
      (rules.model != static_cast<std::uint64_t>(Model::unigram) &&
       rules.model != static_cast<std::uint64_t>(Model::bpe) &&
       rules.model != static_cast<std::uint64_t>(Model::character)))
    return std::nullopt;
  Json out = shell(), marks = Json::object();
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    const bool special = model.IsControl(id) || model.IsUnknown(id);
    const bool found = rules.user_defined.at(static_cast<std::size_t>(id));
    if (found && rules.dummy_prefix) return std::nullopt;
    if (special || found)
      out["added_tokens"].push_back(added_token(id, model.IdToPiece(id), special));
  }
  Json normalizers = Json::array();
  if (rules.dummy_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  normalizers.push_back(replace(" ", kSpaceMark));
  out["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  Json decoders = {replace(kSpaceMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (rules.dummy_prefix)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  out["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  out["model"] = model_json(model, rules);
  if (const int bos = model.bos_id(); bos >= 0) {
    out["post_processor"] = begin_with(model.IdToPiece(bos), bos);
    marks["bos_token"] = model.IdToPiece(bos);
  }
  if (const int eos = model.eos_id(); eos >= 0) marks["eos_token"] = model.IdToPiece(eos);
  if (const int unknown = model.unk_id(); unknown >= 0)
    marks["unk_token"] = model.IdToPiece(unknown);
  return finish(out, marks);
}

}  // namespace

std::optional<TokenizerJson> tokenizer_json(const std::string& path) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 28;
  if (Tokenizer::load(path).file_name() == "bytes.json") return bytes_json();
  return sentencepiece_json(read_file(path, kLimit), path);
}

}  // namespace t2r
