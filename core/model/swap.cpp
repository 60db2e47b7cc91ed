#include "core/model/swap.h"

#include <algorithm>
#include <charconv>

#include "core/base/error.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

std::int64_t parse_layer(std::string_view text, const std::string& choice) {
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check_usage(error == std::errc() && end == text.data() + text.size(),
              "keep-softmax '{}': write none, every-4th, or a list of layers such as 0,3,11",
              choice);
  return value;
}

}  // namespace

std::vector<std::int64_t> layers_to_keep(const std::string& choice, std::int64_t layers) {
  std::vector<std::int64_t> keep;
  if (choice == "none" || choice.empty()) return keep;
  if (choice.starts_with("every-")) {
    std::string_view number(choice);
    number.remove_prefix(6);
    for (std::string_view suffix : {"th", "nd", "rd", "st"})
      if (number.ends_with(suffix)) {
        number.remove_suffix(2);
        break;
      }
    const std::int64_t n = parse_layer(number, choice);
    check_usage(n >= 1 && n <= layers, "keep-softmax '{}' of a model with {} layers", choice,
                layers);
    for (std::int64_t layer = layers - n; layer >= 0; layer -= n) keep.push_back(layer);
  } else {
    std::string_view rest(choice);
    while (true) {
      const std::size_t comma = rest.find(',');
      const std::int64_t layer = parse_layer(rest.substr(0, comma), choice);
      check_usage(layer >= 0 && layer < layers,
                  "keep-softmax names layer {}: this model has layers 0 to {}", layer, layers - 1);
      keep.push_back(layer);
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  std::sort(keep.begin(), keep.end());
  keep.erase(std::unique(keep.begin(), keep.end()), keep.end());
  return keep;
}

ModelConfig swapped_config(ModelConfig config, const LinearAttentionConfig& linear,
                           const std::vector<std::int64_t>& keep_softmax) {
  config.linear = linear;
  if (linear.feature_map == FeatureMap::elu && linear.feature_size == 0)
    config.linear.feature_size = config.head_dim;
  if (linear.feature_map == FeatureMap::elu) config.linear.causal_feature_size = 0;
  config.linear_layers.clear();
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    if (!std::binary_search(keep_softmax.begin(), keep_softmax.end(), layer))
      config.linear_layers.push_back(layer);
  check_usage(!config.linear_layers.empty(),
              "every layer keeps softmax: nothing would be swapped; keep fewer layers");
  config.validate();
  return config;
}

int transfer_weights(const Transformer& from, Transformer& to, std::uint64_t seed) {
  to.params().initialize(seed);
  int fresh = 0;
  for (int i = 0; i < to.params().count(); ++i) {
    const ParamSpec& spec = to.params().spec(ParamId{i});
    const ParamId source = from.params().find(spec.name);
    if (!source) {
      ++fresh;
      continue;
    }
    check(from.params().spec(source).shape == spec.shape,
          "{} has the shape {} in one model and {} in the other", spec.name,
          from.params().spec(source).shape.text(), spec.shape.text());
    copy(Queue{}, to.params().value(ParamId{i}), from.params().value(source));
  }
  to.params().touch();
  return fresh;
}

}  // namespace t2r
