"""Makes the golden model qwen2: a tiny model of that architecture with random weights in Hugging
Face's layout, and what this program computes from it in fp64: logits, loss and, by central
differences of the loss, every gradient. Run once; the results are committed.

python3 make_qwen2_golden.py OUT     (needs numpy alone)
"""
import json
import pathlib
import struct
import sys

import numpy as np

VOCAB, HIDDEN, FFN, LAYERS, HEADS, GROUPS, LENGTH = 37, 16, 24, 2, 4, 2, 23
HEAD, THETA, EPS = HIDDEN // HEADS, 500.0, 1e-6
random = np.random.default_rng(20240607)
out = pathlib.Path(sys.argv[1]) / "qwen2"
ids = random.integers(0, VOCAB, (3, LENGTH))


def make_weights():
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        rest = {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
                "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (GROUPS * HEAD, HIDDEN),
                "self_attn.v_proj": (GROUPS * HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
                "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}
        for name, shape in rest.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if name[-6:] in ("q_proj", "k_proj", "v_proj"):
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
    return {name: (random.standard_normal(shape) * (0.3 if len(shape) == 2 else 0.2)
                   + ("norm" in name)).astype(np.float32) for name, shape in shapes.items()}


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rotate(x):
    """x (sequences, length, heads, HEAD): dimension i turns with i + HEAD / 2."""
    half = HEAD // 2
    angle = np.arange(LENGTH)[:, None] * THETA ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x, w):
    q, k, v = (np.reshape(x @ w(f"{p}_proj.weight").T + w(f"{p}_proj.bias"), (*x.shape[:2], -1, HEAD))
               for p in "qkv")
    q, k = rotate(q), rotate(k)
    k, v = (np.repeat(t, HEADS // GROUPS, axis=2) for t in (k, v))
    scores = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(HEAD)
    scores = np.where(np.tril(np.ones((LENGTH, LENGTH), bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("bhij,bjhd->bihd", scores / scores.sum(-1, keepdims=True), v)
    return mixed.reshape(x.shape) @ w("o_proj.weight").T


def logits_of(weights):
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):
        def w(name):
            return weights[f"model.layers.{layer}.{name}"]
        x = x + attention(norm(x, w("input_layernorm.weight")), lambda name: w("self_attn." + name))
        m = norm(x, w("post_attention_layernorm.weight"))
        gate = m @ w("mlp.gate_proj.weight").T
        x = x + (gate / (1 + np.exp(-gate)) * (m @ w("mlp.up_proj.weight").T)) @ w("mlp.down_proj.weight").T
    return norm(x, weights["model.norm.weight"]) @ weights["model.embed_tokens.weight"].T


def loss_of(weights):
    logits = logits_of(weights)[:, :-1]
    top = logits.max(-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    return (total - np.take_along_axis(logits, ids[:, 1:, None], -1)[..., 0]).mean()


def gradient(weights, name, step=1e-4):
    """Richardson's two central differences: an error of the order step^4."""
    value, result = weights[name].reshape(-1), np.empty(weights[name].size)
    for i, before in enumerate(value.copy()):
        def slope(h):
            value[i] = before + h
            above = loss_of(weights)
            value[i] = before - h
            difference = (above - loss_of(weights)) / (2 * h)
            value[i] = before
            return difference
        result[i] = (4 * slope(step) - slope(2 * step)) / 3
    return result.reshape(weights[name].shape)


def save_safetensors(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in sorted(tensors.items()):
        content = np.ascontiguousarray(value, "<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(value.shape),
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


out.mkdir(parents=True, exist_ok=True)
weights = make_weights()
save_safetensors(out / "model.safetensors", weights)
(out / "config.json").write_text(json.dumps({
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": VOCAB,
    "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "max_position_embeddings": 32,
    "hidden_act": "silu", "rms_norm_eps": EPS, "rope_theta": THETA, "attention_dropout": 0.0,
    "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 16,
    "max_window_layers": LAYERS, "torch_dtype": "float32"}, indent=2) + "\n")
(out / "ids.json").write_text(json.dumps(ids.tolist()) + "\n")
wide = {name: value.astype(np.float64) for name, value in weights.items()}
expected = {"logits": logits_of(wide), "loss": loss_of(wide).reshape(1)}
expected.update({"grad." + name: gradient(wide, name) for name in wide})
save_safetensors(out / "expected.safetensors", expected)
