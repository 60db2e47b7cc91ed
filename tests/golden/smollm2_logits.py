"""Logits of SmolLM2-135M from its GGUF file (types F32 and Q4_1, Q4_0, Q8_0, F16) in numpy, fp64,
without any part of t2r: what tests/launch/test_import.py compares the imported model with. Run once;
the result is committed.

python3 smollm2_logits.py SmolLM2-135M-Instruct.Q4_1.gguf smollm2_logits.json
"""
import json
import struct
import sys

import numpy as np

IDS = [1, 19556, 28, 638, 314, 260, 3575, 282, 4649, 47, 378, 3, 17, 49151, 504, 2, 198]
POSITIONS = [0, 7, 16]
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


class Gguf:
    """https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

    def __init__(self, path):
        self.data, self.at = np.memmap(path, np.uint8, "r"), 8
        tensors, pairs = self.take("<Q"), self.take("<Q")
        self.meta = {}
        for _ in range(pairs):
            key = self.text()
            self.meta[key] = self.value(self.take("<I"))
        self.places = {}
        for _ in range(tensors):
            name = self.text()
            dims = [self.take("<Q") for _ in range(self.take("<I"))]
            self.places[name] = (dims[::-1], self.take("<I"), self.take("<Q"))
        step = self.meta.get("general.alignment", 32)
        self.begin = -(-self.at // step) * step

    def take(self, form):
        size = struct.calcsize(form)
        self.at += size
        return struct.unpack(form, self.data[self.at - size:self.at].tobytes())[0]

    def text(self):
        length = self.take("<Q")
        self.at += length
        return self.data[self.at - length:self.at].tobytes().decode("utf-8", "replace")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.take("<I"), self.take("<Q")
            return [self.value(inner) for _ in range(count)]
        return self.take(SCALARS[kind])

    def tensor(self, name):
        shape, kind, offset = self.places[name]
        count = int(np.prod(shape))
        raw = self.data[self.begin + offset:]
        if kind in (0, 1):
            dtype = np.dtype("<f4" if kind == 0 else "<f2")
            return raw[:count * dtype.itemsize].view(dtype).astype(np.float64).reshape(shape)
        # Blocks of 32 values: half-precision scale d (and minimum m), then the quants.
        head, quants = {2: (2, 16), 3: (4, 16), 8: (2, 32)}[kind]
        blocks = np.array(raw[:count // 32 * (head + quants)]).reshape(-1, head + quants)
        scales = blocks[:, :head].copy().view("<f2").astype(np.float64)
        q = blocks[:, head:]
        if kind == 8:
            return (scales[:, :1] * q.copy().view(np.int8)).reshape(shape)
        # Low halves of the bytes are the first 16 values, high halves the last.
        q = np.concatenate([q & 15, q >> 4], 1).astype(np.float64)
        return (scales[:, :1] * q + scales[:, 1:] if kind == 3 else scales[:, :1] * (q - 8)).reshape(shape)


def norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rotate(x, theta):
    """Neighbours 2i and 2i + 1 turn together: the order of rows that GGUF files of Llama have."""
    length, _, d = x.shape
    angle = np.arange(length)[:, None] * theta ** (-np.arange(0, d, 2) / d)
    turn = np.exp(1j * angle)[:, None]
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def logits_of(file, ids):
    meta = {key.removeprefix("llama."): value for key, value in file.meta.items()}
    heads, groups = meta["attention.head_count"], meta["attention.head_count_kv"]
    eps, theta = meta["attention.layer_norm_rms_epsilon"], meta["rope.freq_base"]
    embedding = file.tensor("token_embd.weight")
    x, length = embedding[ids], len(ids)
    for layer in range(meta["block_count"]):
        def w(name):
            return file.tensor(f"blk.{layer}.{name}.weight")
        h = norm(x, w("attn_norm"), eps)
        q, k, v = ((h @ w("attn_" + p).T).reshape(length, n, -1)
                   for p, n in (("q", heads), ("k", groups), ("v", groups)))
        q, k = rotate(q, theta), rotate(k, theta)
        mixed = np.empty_like(q)
        for head in range(heads):
            keys, values = k[:, head * groups // heads], v[:, head * groups // heads]
            scores = q[:, head] @ keys.T / np.sqrt(q.shape[-1])
            scores[np.triu_indices(length, 1)] = -np.inf
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, head] = scores / scores.sum(-1, keepdims=True) @ values
        x = x + mixed.reshape(length, -1) @ w("attn_output").T
        h = norm(x, w("ffn_norm"), eps)
        gate = h @ w("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
    output = file.tensor("output.weight") if "output.weight" in file.places else embedding
    return norm(x, file.tensor("output_norm.weight"), eps) @ output.T


def main():
    file = Gguf(sys.argv[1])
    logits = logits_of(file, IDS)
    columns = np.random.default_rng(135).choice(logits.shape[1], 31, replace=False)
    expected = []
    for position in POSITIONS:
        row = logits[position]
        chosen = sorted({*columns.tolist(), int(row.argmax())})
        top = row.max()
        expected.append({"position": position, "tokens": chosen,
                         "logits": [round(float(row[c]), 6) for c in chosen],
                         "logsumexp": round(float(top + np.log(np.exp(row - top).sum())), 6)})
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        json.dump({"ids": IDS, "vocabulary": logits.shape[1], "expected": expected}, out)
        out.write("\n")


main()
