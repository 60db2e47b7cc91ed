#include "core/model/cost.h"

namespace t2r {
namespace {

/// Multiply-adds (2 operations each) of linear attention per token and head: a scan costs 4 k d; in
/// chunks of C tokens 2 C (k + d) more, whose parallel products are faster than they look. Counted
/// is the scan, plus the denominator: what the method needs, however it is computed.
double linear_attention_flops(const ModelConfig& c) {
  const double k = static_cast<double>(c.linear.feature_size), d = static_cast<double>(c.head_dim);
  return static_cast<double>(c.heads) * (4 * k * d + 3 * k + d);
}

double feature_map_flops(const ModelConfig& c) {
  const double k = static_cast<double>(c.linear.feature_size), d = static_cast<double>(c.head_dim);
  const double heads = static_cast<double>(c.heads);
  switch (c.linear.feature_map) {
    case FeatureMap::t2r:
      return 2 * heads * (2 * k * d + 2 * k);
    case FeatureMap::rfa:
      return 2 * heads * (k * d + 3 * d + 2 * k);
    case FeatureMap::elu:
      break;
  }
  return 2 * heads * 2 * d;
}

struct Sizes {
  double tokens = 0;
  double pairs = 0;  // (query, key) pairs of causal attention
};

Sizes sizes_of(const Segments& segments) {
  Sizes sizes;
  for (std::int64_t s = 0; s < segments.count; ++s) {
    const auto n = static_cast<double>(segments.length(s));
    sizes.tokens += n;
    sizes.pairs += n * (n + 1) / 2;
  }
  return sizes;
}

std::vector<OperationCost> costs(const ModelConfig& c, const Sizes& n) {
  const auto hidden = static_cast<double>(c.hidden_size), ffn = static_cast<double>(c.ffn_size);
  const auto vocab = static_cast<double>(c.vocab_size), d = static_cast<double>(c.head_dim);
  const auto heads = static_cast<double>(c.heads), groups = static_cast<double>(c.key_value_heads);
  const auto swapped = static_cast<double>(c.linear_layers.size());
  const auto layers = static_cast<double>(c.layers), softmax = layers - swapped;
  const bool gated = c.activation == Activation::swiglu;

  std::vector<OperationCost> list;
  const auto add = [&](const char* name, double forward, double backward) {
    if (forward > 0) list.push_back({name, forward, backward});
  };
  // A product with a weight costs twice as much backward: once for its input, once for itself.
  const auto product = [&](const char* name, double multiply_adds_a_token, double how_many) {
    const double forward = 2 * multiply_adds_a_token * n.tokens * how_many;
    add(name, forward, 2 * forward);
  };
  product("query, key, value projections", hidden * (heads + 2 * groups) * d, layers);
  // Scores and weighted sum; backward recomputes the scores and forms four products.
  const double scores = n.pairs * heads * 2 * d * softmax;
  add("softmax attention", 2 * scores + n.pairs * heads * 5 * softmax, 5 * scores);
  const double maps = n.tokens * feature_map_flops(c) * swapped;
  add("feature maps", maps, 2 * maps);
  const double recurrence = n.tokens * linear_attention_flops(c) * swapped;
  add("linear recurrent attention", recurrence, 2.5 * recurrence);
  product("attention output projection", heads * d * hidden, layers);
  product("feed-forward", hidden * ffn * (gated ? 3 : 2), layers);
  const double norms = n.tokens * hidden * 8 * (2 * layers + 1);
  add("norms", norms, 2 * norms);
  const double active = n.tokens * ffn * 8 * layers;
  add("activation function", active, active);
  product("output layer", hidden * vocab, 1);
  const double loss = n.tokens * vocab * 4;
  add("softmax over the vocabulary", loss, loss / 2);
  return list;
}

}  // namespace

std::vector<OperationCost> operation_costs(const ModelConfig& config, const Segments& segments) {
  return costs(config, sizes_of(segments));
}

double forward_flops(const ModelConfig& config, const Segments& segments) {
  double total = 0;
  for (const OperationCost& cost : operation_costs(config, segments)) total += cost.forward;
  return total;
}

double training_flops(const ModelConfig& config, const Segments& segments) {
  double total = 0;
  for (const OperationCost& cost : operation_costs(config, segments))
    total += cost.forward + cost.backward;
  return total;
}

double decoding_flops(const ModelConfig& config, std::int64_t context) {
  double total = 0;
  // One query against context + 1 keys.
  for (const OperationCost& cost :
       costs(config, {.tokens = 1, .pairs = static_cast<double>(context + 1)}))
    total += cost.forward;
  return total;
}

double decoding_state_bytes(const ModelConfig& c, std::int64_t context,
                            std::int64_t element_bytes) {
  const auto swapped = static_cast<double>(c.linear_layers.size());
  const double softmax = static_cast<double>(c.layers) - swapped;
  const double cache = 2.0 * static_cast<double>(c.key_value_heads * c.head_dim * element_bytes) *
                       static_cast<double>(context);
  const double wide = element_bytes == 8 ? 8 : 4;
  const double state =
      wide * static_cast<double>(c.heads * c.linear.feature_size * (c.head_dim + 1));
  return softmax * cache + swapped * state;
}

std::int64_t parameter_count(const ModelConfig& c) {
  const std::int64_t norm = c.hidden_size * (c.norm == Norm::layer_norm ? 2 : 1);
  const std::int64_t qkv_rows = (c.heads + 2 * c.key_value_heads) * c.head_dim;
  const std::int64_t ffn_rows = c.ffn_size * (c.activation == Activation::swiglu ? 2 : 1);
  const std::int64_t block = 2 * norm + c.hidden_size * (qkv_rows + c.heads * c.head_dim) +
                             c.hidden_size * (ffn_rows + c.ffn_size) +
                             (c.biases ? qkv_rows + ffn_rows + 2 * c.hidden_size : 0);
  std::int64_t map = 0;
  const std::int64_t k = c.linear.feature_size;
  if (c.linear.feature_map == FeatureMap::t2r) map = c.heads * k * (c.head_dim + 1);
  if (c.linear.feature_map == FeatureMap::rfa) map = c.heads * (k / 2 * c.head_dim + 1);
  if (c.linear.decay != Decay::none) map += c.heads;
  std::int64_t total = c.vocab_size * c.hidden_size * (c.tied_output ? 1 : 2) + norm;
  if (c.positions == Positions::learned) total += c.max_positions * c.hidden_size;
  return total + c.layers * block + static_cast<std::int64_t>(c.linear_layers.size()) * map;
}

}  // namespace t2r
