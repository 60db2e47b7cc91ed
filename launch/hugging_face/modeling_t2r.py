"""Language models with linear recurrent attention (T2R, Kasai et al. 2021) for transformers.

Swapped layers keep a state (S, z) of constant size while they generate, the others keys and values.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

CHUNK = 64  # tokens that linear attention takes at once

# What this version of transformers calls the cache.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class T2RConfig(PretrainedConfig):
    model_type = "t2r"
    attribute_map = {"num_hidden_layers": "layers", "num_attention_heads": "heads",
                     "num_key_value_heads": "key_value_heads", "intermediate_size": "ffn_size",
                     "max_position_embeddings": "max_positions"}

    def __init__(self, vocab_size=32000, layers=2, hidden_size=64, heads=4, key_value_heads=None,
                 head_dim=None, ffn_size=256, max_positions=2048, norm="rms_norm", norm_eps=1e-5,
                 activation="swiglu", positions="rotary", rope_theta=10000.0, biases=False,
                 qkv_biases=False,
                 tied_output=True, embedding_scale=1.0, pre_norm=True, output_bias=False,
                 position_offset=0, sinusoids="tensor2tensor", dropout=0.0,
                 attention_dropout=0.0, activation_dropout=0.0, layerdrop=0.0, t2r=None, use_cache=True, **kwargs):
        self.vocab_size = vocab_size
        self.layers = layers
        self.hidden_size = hidden_size
        self.heads = heads
        self.key_value_heads = key_value_heads or heads
        self.head_dim = head_dim or hidden_size // heads
        self.ffn_size = ffn_size
        self.max_positions = max_positions
        self.norm = norm
        self.norm_eps = norm_eps
        self.activation = activation
        self.positions = positions
        self.rope_theta = rope_theta
        self.biases = biases
        self.qkv_biases = qkv_biases
        self.tied_output = tied_output
        self.embedding_scale = embedding_scale
        self.pre_norm = pre_norm
        self.output_bias = output_bias
        self.position_offset = position_offset
        self.sinusoids = sinusoids
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.layerdrop = layerdrop
        self.t2r = t2r or {"layers": []}
        self.use_cache = use_cache
        kwargs.pop("tie_word_embeddings", None)  # tied_output says so, and needs no second tensor
        super().__init__(tie_word_embeddings=False, **kwargs)


class T2RCache:
    """What each layer remembers: a list of tensors a layer, the batch first, and how many tokens."""

    is_compileable = False
    is_linear = [True]  # it cannot be cut back to fewer tokens

    def __init__(self, layers):
        self.states = [None] * layers
        self.length = 0

    def get_seq_length(self, layer_idx=0):
        return self.length

    def reorder_cache(self, beam_idx):
        self.states = [state and [x.index_select(0, beam_idx.to(x.device)) for x in state]
                       for state in self.states]


def wide(dtype):
    """The type of states, denominators and angles."""
    return torch.promote_types(dtype, torch.float32)


def exact(device):
    return torch.float32 if device.type == "mps" else torch.float64


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        y = x.to(wide(x.dtype))
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


def make_norm(config):
    kind = RMSNorm if config.norm == "rms_norm" else nn.LayerNorm
    return kind(config.hidden_size, eps=config.norm_eps)


def sinusoids(positions, size, kind):
    """(..., size): sines, then cosines; an odd last column is 0. kind: tensor2tensor or marian."""
    half = size // 2
    steps = torch.arange(half, device=positions.device, dtype=exact(positions.device))
    last = half if kind == "marian" else half - 1
    angles = positions[..., None] * torch.exp(steps * (-math.log(10000.0) / max(last, 1)))
    return F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, size % 2))


def rotate(x, positions, theta):
    """x (batch, heads, tokens, d) turned by positions (batch, tokens): pairs (i, i + d/2)."""
    half = x.shape[-1] // 2
    steps = torch.arange(half, device=x.device, dtype=exact(x.device))
    angles = positions[:, None, :, None] * theta ** (-steps / half)
    cos, sin = angles.cos().to(wide(x.dtype)), angles.sin().to(wide(x.dtype))
    low, high = x.to(cos.dtype).split(half, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1).to(x.dtype)


# phi: queries or keys (batch, heads, tokens, d) to features (batch, heads, tokens, k), a map a head.

class T2RMap(nn.Module):
    """relu(W x + b) (Kasai et al. 2021)."""

    def __init__(self, heads, features, d):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, features, d))
        self.bias = nn.Parameter(torch.zeros(heads, features))

    def forward(self, x, scale):
        y = torch.einsum("bhnd,hkd->bhnk", x * scale, self.weight.to(x.dtype))
        return F.relu(y + self.bias.to(x.dtype)[:, None])


class EluMap(nn.Module):
    """elu(x) + 1 (Katharopoulos et al. 2020)."""

    def __init__(self, heads, features, d):
        super().__init__()

    def forward(self, x, scale):
        return F.elu(x * scale) + 1


class RfaMap(nn.Module):
    """Random Fourier features of the direction of x (Peng et al. 2021)."""

    def __init__(self, heads, features, d):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, features // 2, d), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(self, x, scale):
        unit = x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-12)
        angles = torch.einsum("bhnd,hkd->bhnk", unit, self.weight.to(x.dtype))
        angles = angles / self.scale.to(x.dtype)[:, None, None]
        return torch.cat([angles.sin(), angles.cos()], -1) / math.sqrt(angles.shape[-1])


class HedgehogMap(nn.Module):
    """[softmax(W x); softmax(-W x)] (Zhang et al. 2024)."""

    def __init__(self, heads, features, d):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, features // 2, d))

    def forward(self, x, scale):
        y = torch.einsum("bhnd,hkd->bhnk", x, self.weight.to(x.dtype))
        return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1)


FEATURE_MAPS = {"t2r": T2RMap, "elu": EluMap, "rfa": RfaMap, "hedgehog": HedgehogMap}


def linear_attention(q, k, v, log_gamma, s, z):
    """Sums over the tokens up to each, the state before them included, chunk by chunk.

    q, k (batch, heads, tokens, k) features, v (batch, heads, tokens, d), log_gamma (heads),
    s (batch, heads, k, d), z (batch, heads, k). Returns numerators (batch, heads, tokens, d),
    denominators (batch, heads, tokens, 1), s and z behind the last token.
    """
    v = F.pad(v, (0, 1), value=1)  # a column of ones: z and denominators come out with the rest
    state = torch.cat([s, z[..., None]], -1)
    sums = []
    for qc, kc, vc in zip(q.split(CHUNK, 2), k.split(CHUNK, 2), v.split(CHUNK, 2)):
        n = qc.shape[2]
        steps = torch.arange(n, device=q.device)
        distance = steps[:, None] - steps
        fade = torch.exp(log_gamma[:, None, None] * distance.clamp(min=0)) * (distance >= 0)
        before = torch.exp(log_gamma[:, None, None] * (steps[:, None] + 1))
        after = torch.exp(log_gamma[:, None, None] * (n - 1 - steps[:, None]))
        sums.append((qc @ kc.transpose(2, 3) * fade) @ vc + (qc * before) @ state)
        state = torch.exp(log_gamma * n)[:, None, None] * state + (kc * after).transpose(2, 3) @ vc
    out = torch.cat(sums, 2)
    return out[..., :-1], out[..., -1:], state[..., :-1], state[..., -1]


def softmax_attention(q, k, v, allowed, dropout):
    """q (batch, heads, tokens, d), allowed (batch, 1, tokens, keys). A row with nothing allowed, of
    padding, must not become NaN."""
    weights = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
    weights = weights.masked_fill(~allowed, torch.finfo(weights.dtype).min).softmax(-1)
    return F.dropout(weights, dropout) @ v


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        c, self.config = config, config
        self.layer = layer
        queries, keys = c.heads * c.head_dim, c.key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, queries, bias=c.biases or c.qkv_biases)
        self.k_proj = nn.Linear(c.hidden_size, keys, bias=c.biases or c.qkv_biases)
        self.v_proj = nn.Linear(c.hidden_size, keys, bias=c.biases or c.qkv_biases)
        self.o_proj = nn.Linear(queries, c.hidden_size, bias=c.biases)
        self.linear = layer in c.t2r["layers"]
        if not self.linear:
            return
        self.window = c.t2r.get("window", 0)
        self.clamp = c.t2r.get("denominator", {}).get("clamp", 0.01)
        self.features = c.t2r["feature_size"]
        self.phi = FEATURE_MAPS[c.t2r["feature_map"]](c.heads, self.features, c.head_dim)
        decay = c.t2r.get("decay", "none")
        self.decay = None
        if decay != "none":
            self.decay = nn.Parameter(torch.zeros(c.heads), requires_grad=decay == "learned")
        self.window_gate = nn.Parameter(torch.zeros(c.heads)) if self.window else None

    def forward(self, x, positions, valid, cache):
        """x (batch, tokens, hidden), positions and valid (not padding) (batch, tokens)."""
        c = self.config
        batch, tokens, _ = x.shape

        def heads(y):
            return y.view(batch, tokens, -1, c.head_dim).transpose(1, 2)
        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        if c.positions == "rotary":
            q, k = rotate(q, positions, c.rope_theta), rotate(k, positions, c.rope_theta)
        q, k, v = (y.to(wide(x.dtype)) for y in (q, k, v))
        state = cache.states[self.layer] if cache is not None else None
        out, state = (self.recurrent if self.linear else self.softmax)(q, k, v, valid, state)
        if cache is not None:
            cache.states[self.layer] = state
        return self.o_proj(out.to(x.dtype).transpose(1, 2).reshape(batch, tokens, -1))

    def shared(self, x):
        """Keys or values for each head of the queries."""
        return x.repeat_interleave(self.config.heads // self.config.key_value_heads, 1)

    def softmax(self, q, k, v, valid, state):
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
            valid = torch.cat([state[2], valid], 1)
        tokens, past = q.shape[2], k.shape[2] - q.shape[2]
        causal = torch.ones(tokens, k.shape[2], dtype=torch.bool, device=q.device).tril(past)
        out = softmax_attention(q, self.shared(k), self.shared(v), causal & valid[:, None, None],
                                self.config.attention_dropout if self.training else 0.0)
        return out, [k, v, valid]

    def recurrent(self, q, k, v, valid, state):
        c = self.config
        batch, tokens = valid.shape
        if state is None:
            state = [q.new_zeros(batch, c.heads, self.features, c.head_dim),
                     q.new_zeros(batch, c.heads, self.features)]
            if self.window:
                state += [k.new_zeros(batch, c.key_value_heads, self.window, c.head_dim)] * 2
                state += [valid.new_zeros(batch, self.window)]
        s, z = state[:2]
        window = []
        if self.window:
            # The window, then the new tokens: as each of them comes, one falls out.
            k, v = torch.cat([state[2], k], 2), torch.cat([state[3], v], 2)
            valid = torch.cat([state[4], valid], 1)
            near = self.near(q, k, v, valid)
            window = [k[:, :, tokens:], v[:, :, tokens:], valid[:, tokens:]]
            k, v, valid = k[:, :, :tokens], v[:, :, :tokens], valid[:, :tokens]
        query_features = self.phi(q, c.head_dim ** -0.5)
        key_features = self.phi(self.shared(k), 1.0) * valid[:, None, :, None]
        log_gamma = q.new_zeros(c.heads)
        if self.decay is not None:
            log_gamma = F.logsigmoid(self.decay.to(q.dtype))
        num, den, s, z = linear_attention(query_features, key_features, self.shared(v), log_gamma,
                                          s, z)
        if self.window:
            gate = self.window_gate.to(q.dtype).exp()[:, None, None]
            return (gate * near + num) / (gate + den), [s, z, *window]
        return num / den.clamp(min=self.clamp), [s, z]

    def near(self, q, k, v, valid):
        """Softmax attention of each token to the last `window` ones, itself included."""
        steps = torch.arange(q.shape[2], device=q.device)[:, None]
        places = torch.arange(k.shape[2], device=q.device)
        band = (places > steps) & (places <= steps + self.window)
        return softmax_attention(q, self.shared(k), self.shared(v), band & valid[:, None, None], 0.0)


ACTIVATIONS = {"gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu_erf": F.gelu,
               "relu": F.relu, "silu": F.silu}


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, self.config = config, config
        if c.activation == "swiglu":
            self.gate_proj = nn.Linear(c.hidden_size, c.ffn_size, bias=c.biases)
        self.up_proj = nn.Linear(c.hidden_size, c.ffn_size, bias=c.biases)
        self.down_proj = nn.Linear(c.ffn_size, c.hidden_size, bias=c.biases)

    def forward(self, x):
        if self.config.activation == "swiglu":
            hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        else:
            hidden = ACTIVATIONS[self.config.activation](self.up_proj(x))
        return self.down_proj(F.dropout(hidden, self.config.activation_dropout, self.training))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config = config
        self.input_layernorm = make_norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = FeedForward(config)

    def residual(self, x, norm, branch):
        y = branch(norm(x) if self.config.pre_norm else x)
        x = x + F.dropout(y, self.config.dropout, self.training)
        return x if self.config.pre_norm else norm(x)

    def forward(self, x, positions, valid, cache):
        x = self.residual(x, self.input_layernorm,
                          lambda y: self.self_attn(y, positions, valid, cache))
        return self.residual(x, self.post_attention_layernorm, self.mlp)


class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.max_positions, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.layers))
        if config.pre_norm:
            self.norm = make_norm(config)

    def embed(self, x, positions):
        c = self.config
        if c.embedding_scale != 1:
            x = x * c.embedding_scale
        if c.positions == "rotary":
            return x
        if positions.numel() and int(positions.max()) >= c.max_positions:
            raise ValueError(f"a sequence of {int(positions.max()) + 1} tokens, but the model has "
                             f"{c.max_positions} positions: use shorter sequences")
        if c.positions == "learned":
            return x + self.embed_positions(positions)
        return x + sinusoids(positions + c.position_offset, c.hidden_size, c.sinusoids).to(x.dtype)

    def forward(self, x, positions, valid, cache):
        c = self.config
        x = F.dropout(self.embed(x, positions), c.dropout, self.training)
        for layer in self.layers:
            if self.training and c.layerdrop > 0 and torch.rand(()) < c.layerdrop:
                continue
            x = layer(x, positions, valid, cache)
        return self.norm(x) if c.pre_norm else x


class T2RForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = T2RConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _is_stateful = True

    def __init__(self, config):
        super().__init__(config)
        self.model = Stack(config)
        self.lm_head = None
        if not config.tied_output:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.output_bias)
        elif config.output_bias:
            self.lm_head = OutputBias(config.vocab_size)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (RMSNorm, nn.LayerNorm)):
            nn.init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RfaMap):
            nn.init.normal_(module.weight)
            nn.init.ones_(module.scale)
        elif isinstance(module, (T2RMap, HedgehogMap)):
            bound = module.weight.shape[-1] ** -0.5
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -bound, bound)
        elif isinstance(module, Attention) and module.linear:
            if module.decay is not None:  # sigmoid(3): a memory of about 20 tokens
                nn.init.constant_(module.decay, 3.0)
            if module.window_gate is not None:  # features of hedgehog sum to 2, however many
                sum_of_features = 1 if isinstance(module.phi, HedgehogMap) else module.features
                nn.init.constant_(module.window_gate, math.log(64.0 * sum_of_features))

    def get_input_embeddings(self):
        return self.model.embed_tokens

    def set_input_embeddings(self, embeddings):
        self.model.embed_tokens = embeddings

    def get_output_embeddings(self):
        return None if self.config.tied_output else self.lm_head

    def set_output_embeddings(self, embeddings):
        if not self.config.tied_output:
            self.lm_head = embeddings

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False  # forward makes its own

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, cache=None,
                                      past_key_values=None, position_ids=None, use_cache=None,
                                      inputs_embeds=None, **kwargs):
        cache = cache if cache is not None else past_key_values
        inputs = {"input_ids": input_ids}
        if cache is None and inputs_embeds is not None:
            inputs = {"inputs_embeds": inputs_embeds}
        elif cache is not None and input_ids.shape[1] > cache.length:
            inputs = {"input_ids": input_ids[:, cache.length:]}
        return {**inputs, CACHE: cache, "attention_mask": attention_mask, "use_cache": use_cache}

    def logits(self, x):
        if not self.config.tied_output:
            return self.lm_head(x)
        y = F.linear(x, self.model.embed_tokens.weight)
        return y if self.lm_head is None else self.lm_head(y)

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None,
                past_key_values=None, inputs_embeds=None, labels=None, use_cache=None,
                return_dict=None, logits_to_keep=0, **kwargs):
        """attention_mask (batch, tokens, those in the cache included): 0 for padding, on the left
        when generating. labels (batch, tokens): the inputs, -100 where nothing is to be learned."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        batch, tokens, _ = x.shape
        cache = cache if cache is not None else past_key_values
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.training and cache is None:
            use_cache = False
        if cache is None and use_cache:
            cache = T2RCache(self.config.layers)
        past = cache.length if cache is not None else 0
        if attention_mask is None:
            attention_mask = torch.ones(batch, past + tokens, dtype=torch.long, device=x.device)
        if attention_mask.dim() != 2 or attention_mask.shape[1] < past + tokens:
            raise ValueError(f"an attention mask of the shape {tuple(attention_mask.shape)}: "
                             f"(batch, {past + tokens}) is needed, tokens in the cache included")
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
            position_ids = position_ids[:, past:past + tokens]
        valid = attention_mask[:, past:past + tokens].bool()
        x = self.model(x, position_ids.expand(batch, tokens), valid, cache)
        if cache is not None:
            cache.length += tokens
        if isinstance(logits_to_keep, int) and logits_to_keep > 0 and labels is None:
            x = x[:, -logits_to_keep:]
        logits = self.logits(x)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        if return_dict is False:
            return tuple(y for y in (loss, logits, cache) if y is not None)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})


class OutputBias(nn.Module):
    """lm_head.bias of a model whose output matrix is the embedding."""

    def __init__(self, size):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, logits):
        return logits + self.bias
