"""Makes the golden models: tiny Hugging Face models with random weights, and what Hugging Face's own
code (and, for linear attention, a plain PyTorch loop over the recurrence, with autograd) computes
from them in fp64. Run once; the results are committed.

python3 make_golden.py OUT     (needs torch, transformers, safetensors; none is a dependency of t2r)
"""
import json
import math
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

torch.manual_seed(20210324)
VOCAB, LENGTH = 37, 23
out = pathlib.Path(sys.argv[1])
ids = torch.randint(0, VOCAB, (3, LENGTH))


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.dim() == 1 else 0.25))


def save_expected(folder, logits, loss, grads):
    tensors = {"logits": logits.detach().float(), "loss": loss.detach().double().reshape(1),
               "ids": ids.to(torch.int32)}
    for name, grad in grads.items():
        tensors["grad." + name] = grad.detach().float()
    save_file({k: v.contiguous() for k, v in tensors.items() if k != "ids"},
              folder / "expected.safetensors")
    (folder / "ids.json").write_text(json.dumps(ids.tolist()) + "\n")


def golden(name, model):
    randomise(model)
    folder = out / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = model.double().eval()
    # The weights as saved: fp32 read back.
    saved = load_file(folder / "model.safetensors")
    missing = model.load_state_dict({k: v.double() for k, v in saved.items()}, strict=False)
    assert all("lm_head" in k for k in missing.missing_keys), missing
    model.tie_weights()
    logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
    loss.backward()
    save_expected(folder, logits, loss,
                  {k: p.grad for k, p in model.named_parameters() if k in saved})
    return folder, saved


gpt2 = GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=16, n_layer=2, n_head=4,
                  resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
gpt2_folder, gpt2_weights = golden("gpt2", GPT2LMHeadModel(gpt2))
llama = LlamaConfig(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
                    rope_theta=500.0, tie_word_embeddings=False)
golden("llama", LlamaForCausalLM(llama))


def layer_norm(x, w, b):
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), w, b, 1e-5)


def recurrent_attention(q, k, v, phi, gamma, clamp=0.01):
    """The recurrence of Kasai et al. (2021), section 2, one sequence (heads, length, d)."""
    heads, length, d = q.shape
    fq, fk = phi(q / math.sqrt(d)), phi(k)
    s = torch.zeros(heads, fk.shape[-1], d, dtype=q.dtype)
    z = torch.zeros(heads, fk.shape[-1], dtype=q.dtype)
    outputs = []
    for i in range(length):
        s = gamma[:, None, None] * s + fk[:, i, :, None] * v[:, i, None, :]
        z = gamma[:, None] * z + fk[:, i]
        numerator = torch.einsum("hk,hkd->hd", fq[:, i], s)
        denominator = (fq[:, i] * z).sum(-1).clamp(min=clamp)
        outputs.append(numerator / denominator[:, None])
    return torch.stack(outputs, 1)


def t2r(name, feature_size, decay):
    """The GPT-2 model above with its attention swapped."""
    folder = out / name
    folder.mkdir(exist_ok=True)
    heads, d = gpt2.n_head, gpt2.n_embd // gpt2.n_head
    weights = dict(gpt2_weights)
    for layer in range(gpt2.n_layer):
        prefix = f"transformer.h.{layer}.attn."
        weights[prefix + "phi.weight"] = (torch.rand(heads, feature_size, d) * 2 - 1) / math.sqrt(d)
        weights[prefix + "phi.bias"] = (torch.rand(heads, feature_size) * 2 - 1) / math.sqrt(d)
        if decay:
            weights[prefix + "decay"] = torch.randn(heads) + 1
    save_file(weights, folder / "model.safetensors")
    config = json.loads((gpt2_folder / "config.json").read_text())
    config["t2r"] = {"feature_map": "t2r", "feature_size": feature_size,
                     "layers": list(range(gpt2.n_layer)), "denominator": {"clamp": 0.01},
                     "decay": "learned" if decay else "none"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    p = {k: v.double().requires_grad_() for k, v in weights.items()}
    rows = []
    for sequence in ids:
        x = p["transformer.wte.weight"][sequence] + p["transformer.wpe.weight"][:LENGTH]
        for layer in range(gpt2.n_layer):
            h = f"transformer.h.{layer}."
            a = layer_norm(x, p[h + "ln_1.weight"], p[h + "ln_1.bias"])
            a = a @ p[h + "attn.c_attn.weight"] + p[h + "attn.c_attn.bias"]
            q, k, v = [t.view(LENGTH, heads, d).transpose(0, 1) for t in a.split(gpt2.n_embd, -1)]
            gamma = torch.sigmoid(p[h + "attn.decay"]) if decay else torch.ones(heads, dtype=torch.double)

            def phi(y):
                return torch.relu(torch.einsum("hkd,hnd->hnk", p[h + "attn.phi.weight"], y)
                                  + p[h + "attn.phi.bias"][:, None])

            o = recurrent_attention(q, k, v, phi, gamma).transpose(0, 1).reshape(LENGTH, gpt2.n_embd)
            x = x + o @ p[h + "attn.c_proj.weight"] + p[h + "attn.c_proj.bias"]
            m = layer_norm(x, p[h + "ln_2.weight"], p[h + "ln_2.bias"])
            m = torch.nn.functional.gelu(m @ p[h + "mlp.c_fc.weight"] + p[h + "mlp.c_fc.bias"],
                                         approximate="tanh")
            x = x + m @ p[h + "mlp.c_proj.weight"] + p[h + "mlp.c_proj.bias"]
        x = layer_norm(x, p["transformer.ln_f.weight"], p["transformer.ln_f.bias"])
        rows.append(x @ p["transformer.wte.weight"].T)
    logits = torch.stack(rows)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
    loss.backward()
    save_expected(folder, logits, loss, {k: v.grad for k, v in p.items()})


t2r("gpt2_t2r", 6, False)
t2r("gpt2_t2r_decay", 6, True)
