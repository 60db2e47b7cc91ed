// tokenizer.json of Hugging Face's tokenizers as the parts of a byte-level BPE.
#include <algorithm>
#include <unordered_map>

#include "core/base/error.h"
#include "data/byte_bpe.h"
#include "data/checked_json.h"

namespace t2r {
namespace {

using Json = nlohmann::json;

constexpr std::int64_t kMaxIds = 1 << 22;
constexpr std::size_t kMaxTokenBytes = 1 << 16;

// GPT-2's; what ByteLevel means without an expression of its own.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string dump(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 100) text = text.substr(0, 100) + "...";
  return text;
}

const Json& member(const Json& object, const char* name) {
  static const Json null;
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() ? *found : null;
}

bool truth(const Json& object, const char* name, bool otherwise, const std::string& where) {
  const Json& value = member(object, name);
  if (value.is_null()) return otherwise;
  check(value.is_boolean(), "{}: {} is {}, not true or false", where, name, dump(value));
  return value.get<bool>();
}

std::string type_of(const Json& object, const std::string& where) {
  const Json& type = member(object, "type");
  check(type.is_string(), "{} has no type", where);
  return type.get<std::string>();
}

/// The bytes that a token stands for; a token with a character that is no byte's is itself.
std::string bytes_of(const std::string& token) {
  static const auto byte_of = [] {
    std::unordered_map<std::string, char> all;
    for (int byte = 0; byte < 256; ++byte)
      all[byte_characters()[static_cast<std::size_t>(byte)]] = static_cast<char>(byte);
    return all;
  }();
  std::string bytes;
  for (std::size_t at = 0; at < token.size();) {
    const std::size_t length = (token[at] & 0x80) == 0 ? 1 : 2;
    const auto found = byte_of.find(token.substr(at, length));
    if (found == byte_of.end()) return token;
    bytes += found->second;
    at += length;
  }
  return bytes;
}

class Parser {
 public:
  Parser(std::string_view json, const std::string& where) : where_(where) {
    const Json root = parse_checked_json(json, where);
    const Json& model = member(root, "model");
    check(model.is_object(), "{} is no tokenizer.json of Hugging Face: it has no model", where);
    // Files older than the field have a BPE without it.
    const std::string type = member(model, "type").is_null() && model.contains("merges")
                                 ? "BPE"
                                 : type_of(model, "its model");
    check(type == "BPE", "{} has a model of type {}: only byte-level BPE is supported", where,
          type);
    check_options(model);
    parse_vocabulary(member(model, "vocab"));
    if (const Json& unknown = member(model, "unk_token"); !unknown.is_null()) {
      const auto found = unknown.is_string() ? ids_.find(unknown.get<std::string>()) : ids_.end();
      check(found != ids_.end(), "{}: its unk_token {} is not in the vocabulary", where,
            dump(unknown));
      parts_.unknown = found->second;
      parts_.fuse_unknown = truth(model, "fuse_unk", false, where);
    }
    parse_added_tokens(member(root, "added_tokens"));
    parse_merges(member(model, "merges"));
    parse_normalizer(member(root, "normalizer"));
    parse_pre_tokenizer(member(root, "pre_tokenizer"));
    check(byte_level_,
          "{} is not byte-level: its pre_tokenizer has no ByteLevel; only byte-level BPE is "
          "supported",
          where);
  }

  ByteBpeParts take() { return std::move(parts_); }

 private:
  void check_options(const Json& model) {
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json& value = member(model, name);
      check(value.is_null() || value == "", "{}: its model has {} {}, which is not supported",
            where_, name, dump(value));
    }
    const Json& dropout = member(model, "dropout");
    check(dropout.is_null() || dropout == 0, "{}: its model has a dropout of {}: set it to null",
          where_, dump(dropout));
    check(!truth(model, "byte_fallback", false, where_),
          "{}: its model has byte_fallback, so it is a converted SentencePiece model: give "
          "tokenizer.model",
          where_);
    parts_.ignore_merges = truth(model, "ignore_merges", false, where_);
  }

  std::int32_t id_of(const Json& value, std::string_view token) const {
    check(value.is_number_integer() && value.get<double>() >= 0 &&
              value.get<double>() < static_cast<double>(kMaxIds),
          "{}: the id of '{}' is {}: it must be a number below {}", where_, token, dump(value),
          kMaxIds);
    return value.get<std::int32_t>();
  }

  /// Makes room for an id; ids cannot lie far apart.
  std::size_t place(std::int32_t id, std::size_t entries) {
    check(static_cast<std::size_t>(id) < 2 * entries + 1024,
          "{}: an id is {}, but it has only {} tokens: it is damaged", where_, id, entries);
    const auto index = static_cast<std::size_t>(id);
    if (index >= parts_.bytes.size()) {
      parts_.bytes.resize(index + 1);
      parts_.special.resize(index + 1);
      parts_.in_model.resize(index + 1);
      taken_.resize(index + 1);
    }
    return index;
  }

  void parse_vocabulary(const Json& vocabulary) {
    check(vocabulary.is_object() && !vocabulary.empty(), "{}: its model has no vocab", where_);
    for (const auto& [token, value] : vocabulary.items()) {
      check(!token.empty() && token.size() <= kMaxTokenBytes,
            "{}: a token has {} bytes: from 1 to {} are possible", where_, token.size(),
            kMaxTokenBytes);
      const std::int32_t id = id_of(value, token);
      const std::size_t index = place(id, vocabulary.size());
      check(!taken_[index], "{}: two tokens have the id {}, one of them is '{}'", where_, id,
            token);
      taken_[index] = true;
      parts_.in_model[index] = true;
      parts_.bytes[index] = bytes_of(token);
      ids_.emplace(token, id);
    }
  }

  void parse_added_tokens(const Json& tokens) {
    if (tokens.is_null()) return;
    check(tokens.is_array(), "{}: its added_tokens are no list", where_);
    std::unordered_map<std::string, std::int32_t> seen;
    for (const Json& entry : tokens) {
      const Json& content = member(entry, "content");
      check(content.is_string(), "{}: an added token has no content: {}", where_, dump(entry));
      AddedToken token;
      token.content = content.get<std::string>();
      check(!token.content.empty() && token.content.size() <= kMaxTokenBytes,
            "{}: an added token has {} bytes: from 1 to {} are possible", where_,
            token.content.size(), kMaxTokenBytes);
      token.id = id_of(member(entry, "id"), token.content);
      token.special = truth(entry, "special", false, where_);
      token.normalized = truth(entry, "normalized", !token.special, where_);
      token.single_word = truth(entry, "single_word", false, where_);
      token.lstrip = truth(entry, "lstrip", false, where_);
      token.rstrip = truth(entry, "rstrip", false, where_);
      check(seen.emplace(token.content, token.id).second,
            "{}: the added token '{}' is listed twice", where_, token.content);
      const auto known = ids_.find(token.content);
      const std::size_t index = place(token.id, ids_.size() + tokens.size());
      check(known != ids_.end() ? known->second == token.id : !taken_[index],
            "{}: the added token '{}' has the id {}, but the vocabulary says otherwise", where_,
            token.content, token.id);
      taken_[index] = true;
      parts_.bytes[index] = token.content;
      parts_.special[index] = token.special;
      parts_.added.push_back(std::move(token));
    }
  }

  void parse_merges(const Json& merges) {
    check(merges.is_array(), "{}: its model has no merges", where_);
    check(std::ssize(merges) <= kMaxIds, "{}: it has {} merges: at most {} are possible", where_,
          merges.size(), kMaxIds);
    for (const Json& entry : merges) {
      std::string left, right;
      if (entry.is_string()) {  // "left right"
        const auto text = entry.get<std::string>();
        if (text.starts_with("#version")) continue;
        const auto space = text.find(' ');
        check(space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
              "{}: the merge '{}' is not two tokens with a space between", where_, text);
        left = text.substr(0, space);
        right = text.substr(space + 1);
      } else {
        check(entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string(),
              "{}: a merge is {}, not two tokens", where_, dump(entry));
        left = entry[0].get<std::string>();
        right = entry[1].get<std::string>();
      }
      parts_.merges.push_back({merged(left), merged(right), merged(left + right)});
    }
  }

  std::int32_t merged(const std::string& token) const {
    const auto found = ids_.find(token);
    check(found != ids_.end(), "{}: a merge has the token '{}', which is not in the vocabulary",
          where_, token);
    return found->second;
  }

  void parse_normalizer(const Json& normalizer) {
    if (normalizer.is_null()) return;
    const std::string type = type_of(normalizer, where_ + ": its normalizer");
    if (type == "Sequence") {
      const Json& steps = member(normalizer, "normalizers");
      check(steps.is_array(), "{}: its normalizer Sequence has no list of normalizers", where_);
      for (const Json& step : steps) parse_normalizer(step);
      return;
    }
    static const std::unordered_map<std::string, UnicodeForm> forms{{"NFC", UnicodeForm::nfc},
                                                                    {"NFD", UnicodeForm::nfd},
                                                                    {"NFKC", UnicodeForm::nfkc},
                                                                    {"NFKD", UnicodeForm::nfkd}};
    const auto form = forms.find(type);
    check(form != forms.end(),
          "{}: its normalizer {} is not supported: NFC, NFD, NFKC and NFKD are", where_, type);
    parts_.normalizers.push_back(form->second);
  }

  void parse_pre_tokenizer(const Json& pre) {
    check(pre.is_object(), "{}: it has no pre_tokenizer; only byte-level BPE is supported", where_);
    const std::string type = type_of(pre, where_ + ": its pre_tokenizer");
    check(!byte_level_, "{}: the pre_tokenizer {} after ByteLevel is not supported", where_, type);
    if (type == "Sequence") {
      const Json& steps = member(pre, "pretokenizers");
      check(steps.is_array(), "{}: its pre_tokenizer Sequence has no list of pretokenizers",
            where_);
      for (const Json& step : steps) parse_pre_tokenizer(step);
    } else if (type == "ByteLevel") {
      WordSplit split{truth(pre, "add_prefix_space", true, where_), {}};
      if (truth(pre, "use_regex", true, where_))
        split.pattern.emplace_back(kGpt2Pattern, SplitPattern::Keep::all, where_);
      parts_.splits.push_back(std::move(split));
      byte_level_ = true;
    } else if (type == "Digits") {
      const bool one_by_one = truth(pre, "individual_digits", false, where_);
      add_split(one_by_one ? "\\p{N}" : "\\p{N}+", SplitPattern::Keep::all);
    } else if (type == "Split") {
      parse_split(pre);
    } else {
      fail("{}: its pre_tokenizer {} is not supported: Split, Digits, ByteLevel and Sequence are",
           where_, type);
    }
  }

  void add_split(const std::string& expression, SplitPattern::Keep keep) {
    parts_.splits.push_back({false, {}});
    parts_.splits.back().pattern.emplace_back(expression, keep, where_);
  }

  void parse_split(const Json& pre) {
    const Json& regex = member(member(pre, "pattern"), "Regex");
    const Json& text = member(member(pre, "pattern"), "String");
    check(regex.is_string() || text.is_string(),
          "{}: its pre_tokenizer Split has no pattern, Regex or String", where_);
    const Json& behavior = member(pre, "behavior");
    const bool invert = truth(pre, "invert", false, where_);
    check(behavior == "Isolated" || behavior == "Removed",
          "{}: its pre_tokenizer Split has the behavior {}: Isolated and Removed are supported",
          where_, dump(behavior));
    using Keep = SplitPattern::Keep;
    add_split(regex.is_string() ? regex.get<std::string>()
                                : SplitPattern::literal(text.get<std::string>()),
              behavior == "Isolated" ? Keep::all
              : invert               ? Keep::matches
                                     : Keep::gaps);
  }

  const std::string where_;
  ByteBpeParts parts_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::vector<bool> taken_;
  bool byte_level_ = false;
};

}  // namespace

ByteBpeParts parse_byte_bpe(std::string_view json, const std::string& where) {
  return Parser(json, where).take();
}

}  // namespace t2r
