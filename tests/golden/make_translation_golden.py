"""Makes the golden translation models: tiny encoder-decoders with random weights, and what PyTorch
computes from them in fp64. Softmax models run through torch.nn's own transformer layers; in swapped
ones the decoder's attention is a plain loop over the recurrence, with autograd. Run once; the results
are committed.

python3 make_translation_golden.py OUT     (needs torch alone; it is no dependency of t2r)
"""
import json
import math
import pathlib
import struct
import sys

import torch
from torch import nn
from torch.nn import functional

torch.manual_seed(20210325)
HIDDEN, HEADS, FFN, ENCODER, DECODER = 16, 4, 24, 2, 2
HEAD = HIDDEN // HEADS
SOURCE_VOCAB, VOCAB = 29, 37
PAIRS = [(5, 7), (9, 4), (1, 12), (6, 2)]  # tokens of source and target
out = pathlib.Path(sys.argv[1])


def save_tensors(path, tensors):
    """The safetensors format: length of the header, header, data."""
    header, data = {}, b""
    for name, tensor in sorted(tensors.items()):
        bytes_ = tensor.detach().float().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(bytes_)]}
        data += bytes_
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def sinusoids(length):
    """Vaswani et al. (2017), section 3.5, as tensor2tensor orders them: all sines, then all cosines."""
    half = HIDDEN // 2
    rate = torch.exp(torch.arange(half, dtype=torch.double) * (-math.log(10000) / (half - 1)))
    angle = torch.arange(length, dtype=torch.double)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1)


def embed(table, tokens):
    return table[tokens] * math.sqrt(HIDDEN) + sinusoids(len(tokens))


def random_weights(pre_norm, joint, biased_output, phi_sizes):
    w = {"model.shared.embed_tokens.weight": torch.randn(VOCAB, HIDDEN) / math.sqrt(HIDDEN)}

    def linear(name, rows, columns):
        w[name + ".weight"] = torch.randn(rows, columns) / math.sqrt(columns)
        w[name + ".bias"] = torch.randn(rows) * 0.1

    def norm(name):
        w[name + ".weight"] = 1 + torch.randn(HIDDEN) * 0.1
        w[name + ".bias"] = torch.randn(HIDDEN) * 0.1

    if not joint:
        w["model.encoder.embed_tokens.weight"] = torch.randn(SOURCE_VOCAB, HIDDEN) / math.sqrt(HIDDEN)
        w["lm_head.weight"] = torch.randn(VOCAB, HIDDEN) / math.sqrt(HIDDEN)
    if biased_output:
        w["lm_head.bias"] = torch.randn(VOCAB) * 0.1
    for stack, layers in (("encoder", ENCODER), ("decoder", DECODER)):
        for i in range(layers):
            layer = f"model.{stack}.layers.{i}."
            attentions = ["self_attn"] + ["encoder_attn"] * (stack == "decoder")
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
                    linear(layer + attention + "." + part, HIDDEN, HIDDEN)
                if stack == "decoder" and phi_sizes:
                    k = phi_sizes[attention]
                    w[layer + attention + ".phi.weight"] = torch.randn(HEADS, k, HEAD) / math.sqrt(HEAD)
                    w[layer + attention + ".phi.bias"] = torch.randn(HEADS, k) * 0.3
            linear(layer + "mlp.up_proj", FFN, HIDDEN)
            linear(layer + "mlp.down_proj", HIDDEN, FFN)
            for name in ["input_layernorm", "post_attention_layernorm"] + (
                    ["encoder_attn_layernorm"] if stack == "decoder" else []):
                norm(layer + name)
        if pre_norm:
            norm(f"model.{stack}.norm")
    return w


def torch_layer(kind, p, layer, pre_norm):
    """torch.nn's layer as a function of x (and memory), with these weights in place of its own."""
    module = kind(HIDDEN, HEADS, FFN, dropout=0.0, batch_first=True, norm_first=pre_norm).double()
    theirs = {"self_attn": "self_attn", "encoder_attn": "multihead_attn"}
    state = {}
    for ours, attention in theirs.items():
        if kind is nn.TransformerEncoderLayer and ours == "encoder_attn":
            continue
        for end in ("weight", "bias"):
            state[f"{attention}.in_proj_{end}"] = torch.cat(
                [p[f"{layer}{ours}.{part}_proj.{end}"] for part in "qkv"])
            state[f"{attention}.out_proj.{end}"] = p[f"{layer}{ours}.o_proj.{end}"]
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind is nn.TransformerDecoderLayer:
        norms.insert(1, "encoder_attn_layernorm")
    for end in ("weight", "bias"):
        state["linear1." + end] = p[layer + "mlp.up_proj." + end]
        state["linear2." + end] = p[layer + "mlp.down_proj." + end]
        for i, name in enumerate(norms):
            state[f"norm{i + 1}.{end}"] = p[f"{layer}{name}.{end}"]
    module.train()  # so that no fused inference path is taken; there is no dropout

    def run(*arguments, **options):
        return torch.nn.utils.stateless.functional_call(module, state, arguments, options)

    return run


def layer_norm(p, name, x):
    return functional.layer_norm(x, (HIDDEN,), p[name + ".weight"], p[name + ".bias"], 1e-5)


def linear(p, name, x):
    return x @ p[name + ".weight"].T + p[name + ".bias"]


def linear_attention(p, name, x, memory, causal, clamp=0.01):
    """The recurrence of Kasai et al. (2021), section 2, of one sequence."""
    def heads(t):
        return t.view(len(t), HEADS, HEAD).transpose(0, 1)

    def phi(t):
        return torch.relu(torch.einsum("hkd,hnd->hnk", p[name + ".phi.weight"], t)
                          + p[name + ".phi.bias"][:, None])

    q = phi(heads(linear(p, name + ".q_proj", x)) / math.sqrt(HEAD))
    k = phi(heads(linear(p, name + ".k_proj", memory)))
    v = heads(linear(p, name + ".v_proj", memory))
    rows = []
    for i in range(len(x)):
        last = i + 1 if causal else len(memory)
        s, z = 0, 0
        for j in range(last):
            s = s + k[:, j, :, None] * v[:, j, None, :]
            z = z + k[:, j]
        numerator = torch.einsum("hk,hkd->hd", q[:, i], s)
        denominator = (q[:, i] * z).sum(-1).clamp(min=clamp)
        rows.append((numerator / denominator[:, None]).reshape(HIDDEN))
    return linear(p, name + ".o_proj", torch.stack(rows))


def swapped_layer(p, layer, pre_norm):
    def residual(x, norm, branch):
        if pre_norm:
            return x + branch(layer_norm(p, layer + norm, x))
        return layer_norm(p, layer + norm, x + branch(x))

    def run(x, memory):
        x, memory = x[0], memory[0]
        x = residual(x, "input_layernorm",
                     lambda y: linear_attention(p, layer + "self_attn", y, y, True))
        x = residual(x, "encoder_attn_layernorm",
                     lambda y: linear_attention(p, layer + "encoder_attn", y, memory, False))
        x = residual(x, "post_attention_layernorm", lambda y: linear(
            p, layer + "mlp.down_proj", torch.relu(linear(p, layer + "mlp.up_proj", y))))
        return x[None]

    return run


def golden(name, pre_norm, joint, phi_sizes=None):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_weights(pre_norm, joint, not joint, phi_sizes)
    save_tensors(folder / "model.safetensors", weights)
    config = {"model_type": "t2r_encoder_decoder", "vocab_size": VOCAB, "layers": DECODER,
              "encoder_layers": ENCODER, "source_vocab_size": 0 if joint else SOURCE_VOCAB,
              "hidden_size": HIDDEN, "heads": HEADS, "key_value_heads": HEADS, "head_dim": HEAD,
              "ffn_size": FFN, "max_positions": 32, "norm": "layer_norm", "norm_eps": 1e-5,
              "activation": "relu", "positions": "sinusoidal", "embedding_scale": math.sqrt(HIDDEN),
              "biases": True, "tied_output": joint, "output_bias": not joint, "pre_norm": pre_norm}
    if phi_sizes:
        config["t2r"] = {"feature_map": "t2r", "feature_size": phi_sizes["encoder_attn"],
                         "causal_feature_size": phi_sizes["self_attn"], "decay": "none",
                         "layers": list(range(DECODER)), "denominator": {"clamp": 0.01}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    p = {k: v.float().double().requires_grad_() for k, v in weights.items()}
    source_table = p["model.shared.embed_tokens.weight" if joint else "model.encoder.embed_tokens.weight"]
    target_table = p["model.shared.embed_tokens.weight"]
    pairs, rows, losses = [], [], []
    for source_length, target_length in PAIRS:
        source = torch.randint(0, VOCAB if joint else SOURCE_VOCAB, (source_length,))
        target = torch.randint(0, VOCAB, (target_length,))
        pairs.append({"source": source.tolist(), "target": target.tolist()})
        memory = embed(source_table, source)[None]
        for i in range(ENCODER):
            memory = torch_layer(nn.TransformerEncoderLayer, p, f"model.encoder.layers.{i}.",
                                 pre_norm)(memory)
        if pre_norm:
            memory = layer_norm(p, "model.encoder.norm", memory)
        x = embed(target_table, target)[None]
        causal = torch.full((target_length, target_length), -math.inf, dtype=torch.double).triu(1)
        for i in range(DECODER):
            layer = f"model.decoder.layers.{i}."
            if phi_sizes:
                x = swapped_layer(p, layer, pre_norm)(x, memory)
            else:
                x = torch_layer(nn.TransformerDecoderLayer, p, layer, pre_norm)(x, memory,
                                                                                tgt_mask=causal)
        if pre_norm:
            x = layer_norm(p, "model.decoder.norm", x)
        logits = x[0] @ (target_table if joint else p["lm_head.weight"]).T
        if not joint:
            logits = logits + p["lm_head.bias"]
        rows.append(logits)
        losses.append(functional.cross_entropy(logits[:-1], target[1:], reduction="sum"))
    loss = sum(losses) / sum(length - 1 for _, length in PAIRS)
    loss.backward()
    expected = {"logits": torch.cat(rows), "loss": loss.reshape(1)}
    expected.update({"grad." + k: v.grad for k, v in p.items()})
    save_tensors(folder / "expected.safetensors", expected)
    (folder / "ids.json").write_text(json.dumps(pairs) + "\n")


golden("translation", pre_norm=True, joint=True)
golden("translation_post_norm", pre_norm=False, joint=False)
golden("translation_t2r", pre_norm=False, joint=True, phi_sizes={"self_attn": 3, "encoder_attn": 8})
