#include "data/llama2c.h"

#include <array>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

constexpr std::int64_t kHeaderBytes = 7 * 4;
constexpr std::int32_t kMagic = 0x616B3432;  // "ak42": versions 1 and later
constexpr std::int64_t kMaxDim = 1 << 20, kMaxVocab = 1 << 24, kMaxTokenBytes = 1 << 16;

}  // namespace

Llama2cFile::Llama2cFile(const std::string& path) : file_(path) {
  const auto bytes = file_.bytes();
  check(std::ssize(bytes) >= kHeaderBytes,
        "{} is cut off or no llama2.c checkpoint: it has {} bytes", path, bytes.size());
  std::array<std::int32_t, 7> header;
  std::memcpy(header.data(), bytes.data(), kHeaderBytes);
  check(header[0] != kMagic,
        "{} is a llama2.c checkpoint of version {}: export it with --version 0", path, header[1]);
  Llama2cConfig& c = config_;
  c.dim = header[0];
  c.hidden_dim = header[1];
  c.layers = header[2];
  c.heads = header[3];
  c.kv_heads = header[4];
  c.tied = header[5] > 0;
  c.vocab_size = std::abs(std::int64_t{header[5]});
  c.seq_len = header[6];
  const auto within = [&](std::int64_t value, std::int64_t most, const char* name) {
    check(value > 0 && value <= most,
          "{} is damaged or no llama2.c checkpoint: its {} is {}, from 1 to {} are possible", path,
          name, value, most);
  };
  within(c.dim, kMaxDim, "dim");
  within(c.hidden_dim, kMaxDim, "hidden_dim");
  within(c.layers, 1 << 12, "number of layers");
  within(c.heads, 1 << 12, "number of heads");
  within(c.kv_heads, c.heads, "number of key heads");
  within(c.vocab_size, kMaxVocab, "vocab_size");
  within(c.seq_len, kMaxVocab, "seq_len");
  check(c.dim % c.heads == 0 && c.head_size() % 2 == 0 && c.heads % c.kv_heads == 0,
        "{} is damaged: dim {} with {} heads and {} key heads cannot be", path, c.dim, c.heads,
        c.kv_heads);

  std::int64_t place = kHeaderBytes;  // below 2^63: at most 2^20 * 2^20 * 2^12 * 4 a tensor
  const auto add = [&](const char* name, std::vector<std::int64_t> shape) {
    Tensor tensor{std::move(shape), place, 1};
    for (std::int64_t size : tensor.shape) tensor.elements *= size;
    place += tensor.elements * 4;
    check(place <= std::ssize(bytes),
          "{} has {} bytes and ends before the end of {}: it is cut off or damaged", path,
          bytes.size(), name);
    order_.emplace_back(name);
    tensors_.emplace(name, std::move(tensor));
  };
  const std::int64_t kv_dim = c.kv_heads * c.head_size();
  add("token_embedding_table", {c.vocab_size, c.dim});
  add("rms_att_weight", {c.layers, c.dim});
  add("wq", {c.layers, c.dim, c.dim});
  add("wk", {c.layers, kv_dim, c.dim});
  add("wv", {c.layers, kv_dim, c.dim});
  add("wo", {c.layers, c.dim, c.dim});
  add("rms_ffn_weight", {c.layers, c.dim});
  add("w1", {c.layers, c.hidden_dim, c.dim});
  add("w2", {c.layers, c.dim, c.hidden_dim});
  add("w3", {c.layers, c.hidden_dim, c.dim});
  add("rms_final_weight", {c.dim});
  place +=
      c.seq_len * c.head_size() * 4;  // tables of cosines and sines that nothing reads any more
  if (!c.tied) add("wcls", {c.vocab_size, c.dim});
  check(place == std::ssize(bytes),
        "{} has {} bytes, but its header asks for {}: it is damaged or no llama2.c checkpoint",
        path, bytes.size(), place);
}

std::vector<std::string> Llama2cFile::names() const {
  return order_;
}

const Llama2cFile::Tensor& Llama2cFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  check(found != tensors_.end(), "{} has no tensor {}", path(), name);
  return found->second;
}

const std::vector<std::int64_t>& Llama2cFile::shape(const std::string& name) const {
  return tensor(name).shape;
}

void Llama2cFile::read(const std::string& name, std::int64_t first, std::span<float> out) const {
  const Tensor& from = tensor(name);
  check(first >= 0 && first <= from.elements && std::ssize(out) <= from.elements - first,
        "{}: elements [{}, {}) of the tensor {}, which has {}", path(), first,
        first + std::ssize(out), name, from.elements);
  if (!out.empty())
    std::memcpy(out.data(), file_.bytes().data() + from.begin + 4 * first, out.size_bytes());
}

std::vector<SentencePieceEntry> read_llama2c_tokenizer(const std::string& path,
                                                       std::int64_t vocab_size) {
  const MappedFile file(path);
  auto rest = file.bytes();
  const auto take = [&](std::size_t bytes) {
    check(bytes <= rest.size(), "{} is cut off or damaged, or has no {} tokens", path, vocab_size);
    const auto taken = rest.first(bytes);
    rest = rest.subspan(bytes);
    return taken;
  };
  const auto number = [&]<class T>(T value) {
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  };
  const auto longest = number(std::int32_t{});
  check(longest > 0 && longest <= kMaxTokenBytes,
        "{} is damaged or no llama2.c tokenizer: its longest token has {} bytes", path, longest);
  std::vector<SentencePieceEntry> entries;
  std::int64_t bytes_seen = 0;
  for (std::int64_t id = 0; id < vocab_size; ++id) {
    SentencePieceEntry entry;
    entry.score = number(0.0f);
    const auto length = number(std::int32_t{});
    check(length >= 0 && length <= kMaxTokenBytes && std::isfinite(entry.score),
          "{} is damaged: its token {} has {} bytes and the score {}", path, id, length,
          entry.score);
    const auto taken = take(static_cast<std::size_t>(length));
    const std::string_view text(reinterpret_cast<const char*>(taken.data()), taken.size());
    check(find_invalid_utf8(text) < 0, "{} is damaged: its token {} is not valid UTF-8", path, id);
    if (id < 3) {  // some files have line ends around these names
      entry.piece = id == 0 ? "<unk>" : id == 1 ? "<s>" : "</s>";
      entry.type = id == 0 ? PieceType::unknown : PieceType::control;
    } else if (bytes_seen < 256 && text == fmt::format("<0x{:02X}>", bytes_seen)) {
      entry.piece = text;
      entry.type = PieceType::byte;
      ++bytes_seen;
    } else {
      for (char c : text) entry.piece += c == ' ' ? "\xE2\x96\x81" : std::string(1, c);
    }
    entries.push_back(std::move(entry));
  }
  check(rest.empty(), "{} has {} bytes after its {} tokens: it belongs to another model", path,
        rest.size(), vocab_size);
  return entries;
}

}  // namespace t2r
