#include "core/model/cost.h"

#include <algorithm>

namespace t2r {
namespace {

/// What the layers of one stack read: attention of one kind over some tokens.
struct Work {
  double queries = 0, keys = 0;  // rows that are projected
  double pairs = 0;              // (query, key) that softmax attention scores
  double window_pairs = 0;       // those within the window of swapped layers
};

struct Sizes {
  double tokens = 0, source_tokens = 0;
  Work causal, encoder, cross;
};

/// Pairs of a sequence of n tokens whose queries see themselves and the w - 1 tokens before.
double pairs_in_window(double n, double w) {
  return n <= w ? n * (n + 1) / 2 : w * (w + 1) / 2 + (n - w) * w;
}

Sizes sizes_of(const ModelConfig& c, const Segments& segments, const Segments& sources) {
  Sizes sizes;
  for (std::int64_t s = 0; s < segments.count; ++s) {
    const auto n = static_cast<double>(segments.length(s));
    sizes.tokens += n;
    sizes.causal.pairs += n * (n + 1) / 2;
    sizes.causal.window_pairs += pairs_in_window(n, static_cast<double>(c.linear.window));
    if (s >= sources.count) continue;
    const auto m = static_cast<double>(sources.length(s));
    sizes.source_tokens += m;
    sizes.encoder.pairs += m * m;
    sizes.cross.pairs += n * m;
  }
  sizes.causal.queries = sizes.causal.keys = sizes.cross.queries = sizes.tokens;
  sizes.encoder.queries = sizes.encoder.keys = sizes.cross.keys = sizes.source_tokens;
  return sizes;
}

/// Operations of linear attention (a multiply-add is 2) a head: a key costs 2 k d to add to the
/// state, a query 2 k d to read it; chunks of C tokens cost 2 C (k + d) more, whose parallel
/// products are faster than they look. Counted is the scan, plus the denominator: what the method
/// needs, however it is computed.
double linear_attention_flops(const ModelConfig& c, const Work& work, double k) {
  const auto d = static_cast<double>(c.head_dim);
  return static_cast<double>(c.heads) *
         (work.keys * (2 * k * d + k) + work.queries * (2 * k * d + 2 * k + d));
}

double feature_map_flops(const ModelConfig& c, const Work& work, double k) {
  const auto d = static_cast<double>(c.head_dim);
  const double rows = static_cast<double>(c.heads) * (work.queries + work.keys);
  switch (c.linear.feature_map) {
    case FeatureMap::t2r:
      return rows * (2 * k * d + 2 * k);
    case FeatureMap::rfa:
      return rows * (k * d + 3 * d + 2 * k);
    case FeatureMap::hedgehog:
      return rows * (k * d + 5 * k);
    case FeatureMap::elu:
      break;
  }
  return rows * 2 * d;
}

class Costs {
 public:
  Costs(const ModelConfig& config, const TrainedPart& part) : c(config), trained(part) {}

  void add(const std::string& name, double forward, double backward) {
    if (forward > 0) list.push_back({name, forward, backward});
  }
  /// A product with a weight in layers of that number costs as much again backward in those that
  /// backward reaches, for its input, and in those where the weight is trained, for itself.
  void product(const std::string& name, double multiply_adds, double layers, double reached,
               double trained_layers) {
    add(name, 2 * multiply_adds * layers, 2 * multiply_adds * (reached + trained_layers));
  }
  /// One kind of attention in `softmax` layers, of which backward reaches some, and `linear`
  /// swapped ones.
  void attention(const std::string& kind, const Work& work, double softmax, double reached,
                 double linear, std::int64_t feature_size) {
    const auto hidden = static_cast<double>(c.hidden_size), d = static_cast<double>(c.head_dim);
    const auto heads = static_cast<double>(c.heads);
    const auto groups = static_cast<double>(c.key_value_heads);
    const auto k = static_cast<double>(feature_size);
    product(kind + "query, key, value projections",
            hidden * d * (heads * work.queries + 2 * groups * work.keys), softmax + linear,
            reached + linear, learning(softmax, linear));
    // Scores and weighted sum; backward recomputes the scores and forms four products.
    const double scores = work.pairs * heads * 2 * d;
    add(kind + "softmax attention", 2 * scores * softmax + work.pairs * heads * 5 * softmax,
        5 * scores * reached);
    const double maps = feature_map_flops(c, work, k) * linear;
    add(kind + "feature maps", maps, 2 * maps);
    const double recurrence = linear_attention_flops(c, work, k) * linear;
    add(kind + "linear recurrent attention", recurrence, 2.5 * recurrence);
    const double near = work.window_pairs * heads * 2 * d * linear;
    add(kind + "softmax window", 2 * near + work.window_pairs * heads * 5 * linear, 5 * near);
    product(kind + "attention output projection", heads * d * hidden * work.queries,
            softmax + linear, reached + linear, learning(softmax, linear));
    const double outer = (hidden + heads * d) * work.queries,
                 inner = (hidden + groups * d) * work.keys;
    adapters(kind + "attention adapters",
             outer * (targets("q") + targets("o")) + inner * (targets("k") + targets("v")),
             softmax + linear);
  }
  double targets(const char* projection) const {
    return trained.adapts(std::string(projection) + "_proj") ? 1 : 0;
  }
  /// `columns`: inputs and outputs of the adapted matrices, times their rows.
  void adapters(const std::string& name, double columns, double layers) {
    product(name, static_cast<double>(trained.lora_options.rank) * columns, layers, layers, layers);
  }
  /// Layers whose matrices of attention are trained.
  double learning(double softmax, double linear) const {
    return trained.kind == TrainedPart::all         ? softmax + linear
           : trained.kind == TrainedPart::attention ? linear
                                                    : 0;
  }

  const ModelConfig& c;
  const TrainedPart& trained;
  std::vector<OperationCost> list;
};

std::vector<OperationCost> costs(const ModelConfig& c, const Sizes& n, const TrainedPart& trained) {
  const auto hidden = static_cast<double>(c.hidden_size), ffn = static_cast<double>(c.ffn_size);
  const auto vocab = static_cast<double>(c.vocab_size);
  const auto linear = static_cast<double>(c.linear_layers.size());
  const auto layers = static_cast<double>(c.layers), softmax = layers - linear;
  const auto encoder = static_cast<double>(c.encoder_layers);
  const bool gated = c.activation == Activation::swiglu;

  // Only swapped layers have something to train where matrices elsewhere are frozen.
  const bool everywhere = trained.kind == TrainedPart::all || trained.kind == TrainedPart::lora;
  const bool matrices = trained.kind == TrainedPart::all;
  const auto lowest =
      everywhere || c.linear_layers.empty() ? 0.0 : static_cast<double>(c.linear_layers.front());
  const double reached = layers - lowest, reached_encoder = everywhere ? encoder : 0;

  Costs all(c, trained);
  if (c.encoder_decoder()) all.attention("encoder: ", n.encoder, encoder, reached_encoder, 0, 0);
  all.attention("", n.causal, softmax, reached - linear, linear, c.causal_feature_size());
  if (c.encoder_decoder())
    all.attention("cross: ", n.cross, softmax, reached - linear, linear, c.linear.feature_size);
  const double rows = n.tokens * layers + n.source_tokens * encoder;  // through blocks
  const double reached_rows = n.tokens * reached + n.source_tokens * reached_encoder;
  all.product("feed-forward", hidden * ffn * (gated ? 3 : 2), rows, reached_rows,
              matrices ? rows : 0);
  all.adapters("feed-forward adapters",
               (hidden + ffn) *
                   (all.targets("up") + all.targets("down") + (gated ? all.targets("gate") : 0)),
               rows);
  const double cross_norms = c.encoder_decoder() ? n.tokens : 0;
  const double norm = hidden * 8;
  all.add("norms", norm * (2 * rows + cross_norms * layers + n.tokens + n.source_tokens),
          2 * norm *
              (2 * reached_rows + cross_norms * reached + n.tokens +
               (everywhere ? n.source_tokens : 0)));
  const double active = ffn * 8;
  all.add("activation function", active * rows, active * reached_rows);
  all.product("output layer", hidden * vocab, n.tokens, n.tokens, matrices ? n.tokens : 0);
  const double loss = n.tokens * vocab * 4;
  all.add("softmax over the vocabulary", loss, loss / 2);
  return all.list;
}

}  // namespace

std::vector<OperationCost> operation_costs(const ModelConfig& config, const Segments& segments,
                                           const Segments& sources, const TrainedPart& trained) {
  return costs(config, sizes_of(config, segments, sources), trained);
}

double forward_flops(const ModelConfig& config, const Segments& segments, const Segments& sources) {
  double total = 0;
  for (const OperationCost& cost : operation_costs(config, segments, sources))
    total += cost.forward;
  return total;
}

double training_flops(const ModelConfig& config, const Segments& segments, const Segments& sources,
                      const TrainedPart& trained) {
  double total = 0;
  for (const OperationCost& cost : operation_costs(config, segments, sources, trained))
    total += cost.forward + cost.backward;
  return total;
}

double linear_training_flops(const ModelConfig& config, const Segments& segments,
                             const Segments& sources) {
  double total = 0;
  for (const OperationCost& cost : operation_costs(config, segments, sources))
    for (const char* part : {"feature maps", "linear recurrent attention", "softmax window"})
      if (cost.name.ends_with(part)) total += cost.forward + cost.backward;
  return total;
}

double decoding_flops(const ModelConfig& config, std::int64_t context, std::int64_t source_length) {
  Sizes one;  // one query against context + 1 keys, and against the source
  one.tokens = one.causal.queries = one.causal.keys = one.cross.queries = 1;
  one.causal.pairs = static_cast<double>(context + 1);
  one.causal.window_pairs = static_cast<double>(std::min(context + 1, config.linear.window));
  one.cross.pairs = static_cast<double>(source_length);
  double total = 0;
  for (const OperationCost& cost : costs(config, one, TrainedPart::nothing)) total += cost.forward;
  return total;
}

double decoding_state_bytes(const ModelConfig& c, std::int64_t context, std::int64_t element_bytes,
                            std::int64_t source_length) {
  const auto swapped = static_cast<double>(c.linear_layers.size());
  const double softmax = static_cast<double>(c.layers) - swapped;
  const double cache = 2.0 * static_cast<double>(c.key_value_heads * c.head_dim * element_bytes) *
                       static_cast<double>(context + source_length);
  const double wide = element_bytes == 8 ? 8 : 4;
  const std::int64_t features =
      c.causal_feature_size() + (c.encoder_decoder() ? c.linear.feature_size : 0);
  const double state = wide * static_cast<double>(c.heads * features * (c.head_dim + 1));
  const double ring = 2.0 * static_cast<double>(c.key_value_heads * c.head_dim * element_bytes) *
                      static_cast<double>(std::min(context, c.linear.window));
  return softmax * cache + swapped * (state + ring);
}

std::int64_t parameter_count(const ModelConfig& c) {
  const std::int64_t norm = c.hidden_size * (c.norm == Norm::layer_norm ? 2 : 1);
  const std::int64_t qkv_rows = (c.heads + 2 * c.key_value_heads) * c.head_dim;
  const std::int64_t attention = norm + c.hidden_size * (qkv_rows + c.heads * c.head_dim) +
                                 (c.has_qkv_biases() ? qkv_rows : 0) +
                                 (c.biases ? c.hidden_size : 0);
  const std::int64_t ffn_rows = c.ffn_size * (c.activation == Activation::swiglu ? 2 : 1);
  const std::int64_t ffn =
      norm + c.hidden_size * (ffn_rows + c.ffn_size) + (c.biases ? ffn_rows + c.hidden_size : 0);
  const auto map = [&](std::int64_t k) {
    if (c.linear.feature_map == FeatureMap::t2r) return c.heads * k * (c.head_dim + 1);
    if (c.linear.feature_map == FeatureMap::rfa) return c.heads * (k / 2 * c.head_dim + 1);
    if (c.linear.feature_map == FeatureMap::hedgehog) return c.heads * (k / 2 * c.head_dim);
    return std::int64_t{0};
  };
  std::int64_t maps = map(c.causal_feature_size());
  if (c.linear.decay != Decay::none) maps += c.heads;
  if (c.linear.window) maps += c.heads;
  if (c.encoder_decoder()) maps += map(c.linear.feature_size);

  std::int64_t total =
      (c.vocab_size * (c.tied_output ? 1 : 2) + c.source_vocab_size) * c.hidden_size;
  if (c.output_bias) total += c.vocab_size;
  if (c.positions == Positions::learned)
    total += c.max_positions * c.hidden_size * (c.source_vocab_size ? 2 : 1);
  if (c.pre_norm) total += norm * (c.encoder_decoder() ? 2 : 1);
  total += c.layers * (attention * (c.encoder_decoder() ? 2 : 1) + ffn);
  total += c.encoder_layers * (attention + ffn);
  return total + static_cast<std::int64_t>(c.linear_layers.size()) * maps;
}

}  // namespace t2r
