// Writes small sound files of every format, to start from: seeds FOLDER
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "core/base/dtype.h"
#include "data/safetensors.h"
#include "tests/data/ctranslate2_writer.h"
#include "tests/data/gguf_writer.h"

int main(int argc, char** argv) {
  using namespace t2r;
  if (argc != 2) return std::fprintf(stderr, "usage: seeds FOLDER\n"), 2;
  const std::filesystem::path folder(argv[1]);
  const auto put = [&](const char* format, const char* name, const std::string& content) {
    std::filesystem::create_directories(folder / format);
    std::ofstream(folder / format / name, std::ios::binary) << content;
  };
  for (std::uint32_t type : {0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30})
    put("gguf", fmt::format("type{}", type).c_str(),
        gguf_file({gguf_key("general.alignment", 4, number_bytes<std::uint32_t>(32))},
                  {{"a", {256, 2}, type, 0}}, std::string(2048, '\1')));
  put("gguf", "vocabulary",
      gguf_file({gguf_key("tokenizer.ggml.model", 8, gguf_text("gpt2")),
                 gguf_key("tokenizer.ggml.pre", 8, gguf_text("gpt-2")),
                 gguf_texts("tokenizer.ggml.tokens", {"a", "b", "ab"}),
                 gguf_texts("tokenizer.ggml.merges", {"a b"}),
                 gguf_numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {1, 1, 3}),
                 gguf_numbers<float>("tokenizer.ggml.scores", 6, {0, -1, -2}),
                 gguf_key("tokenizer.ggml.bos_token_id", 4, number_bytes<std::uint32_t>(2)),
                 gguf_key("tokenizer.ggml.add_bos_token", 7, "\1")},
                {}, {}));
  for (std::int32_t vocabulary : {5, -5}) {
    std::string checkpoint;
    for (std::int32_t field : {4, 6, 2, 2, 1, vocabulary, 3}) checkpoint += number_bytes(field);
    checkpoint.resize(checkpoint.size() + 4 * (286 + (vocabulary < 0 ? 20 : 0)));
    put("llama2c", vocabulary > 0 ? "tied" : "untied", checkpoint);
  }
  std::string tokenizer = number_bytes<std::int32_t>(6);
  for (const std::string text : {"<unk>", "<s>", "</s>"})
    tokenizer += number_bytes(0.0f) + number_bytes(static_cast<std::int32_t>(text.size())) + text;
  put("llama2c", "tokenizer", tokenizer);
  const std::vector<float> values(8);
  const std::vector<SafetensorsEntry> entries{{"a", DType::f32, {2, 4}, values.data()},
                                              {"b", DType::bf16, {3}, values.data()}};
  std::filesystem::create_directories(folder / "safetensors");
  write_safetensors((folder / "safetensors/small").string(), entries);
  std::filesystem::create_directories(folder / "tokenizer");
  put("tokenizer", "small", R"({"added_tokens":[{"id":2,"content":"<|endoftext|>","special":true,
"lstrip":true,"rstrip":true,"single_word":true,"normalized":false}],"normalizer":{"type":"Sequence",
"normalizers":[{"type":"NFC"}]},"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split",
"pattern":{"Regex":"(?i:'s)|\\p{L}+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},
{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":true,
"use_regex":true}]},"model":{"type":"BPE","unk_token":"a","fuse_unk":true,"ignore_merges":true,
"vocab":{"a":0,"b":1,"ab":3,"I":4,"t":5,"It":6},"merges":["a b",["I","t"]]}})");
  put("ctranslate2", "small",
      ctranslate2_file("TransformerBase",
                       {{"a", {2, 2}, {1, 2, 3, 4}}, {"b", {3}, {1, 2, 3}}, {"c", {}, {1}}}));
  const std::string marks = std::string(1, '\0') + R"({"bos_token":"<s>",
"eos_token":{"content":"</s>","special":true},"tokenizer_class":"GPT2Tokenizer"})";
  put("model_config", "gpt2",
      R"({"model_type":"gpt2","vocab_size":37,"n_positions":32,"n_embd":16,
"n_layer":2,"n_head":4,"n_inner":null,"activation_function":"gelu_new","bos_token_id":0,
"eos_token_id":1,"layer_norm_epsilon":1e-5,"resid_pdrop":0.1,"tie_word_embeddings":true})" +
          marks);
  put("model_config", "llama",
      R"({"model_type":"llama","vocab_size":37,"hidden_size":16,
"intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
"head_dim":4,"hidden_act":"silu","max_position_embeddings":32,"rms_norm_eps":1e-6,"rope_theta":1e4,
"attention_bias":false,"mlp_bias":false,"tie_word_embeddings":false,"bos_token_id":[2],"t2r":{
"feature_map":"t2r","feature_size":4,"layers":[0,1],"denominator":{"clamp":0.01}}})" +
          marks);
}
