"""Decoding with a key-value cache in PyTorch on the CPU, at several lengths: tokens/s of a batch.

OMP_NUM_THREADS=2 python3 torch_decoding.py --threads 2
"""
import argparse
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int, default=8)
parser.add_argument("--dim", type=int, default=512)
parser.add_argument("--heads", type=int, default=8)
parser.add_argument("--vocab", type=int, default=8192)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--lengths", default="256,512,1024,2048,4096")
parser.add_argument("--steps", type=int, default=24)
args = parser.parse_args()

D, H = args.dim, args.heads


class Block(nn.Module):
    def __init__(self, capacity):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)
        self.keys = torch.randn(args.batch, H, capacity, D // H) * 0.1
        self.values = torch.randn(args.batch, H, capacity, D // H) * 0.1

    def forward(self, x, n):
        q, k, v = [t.view(args.batch, H, 1, D // H) for t in self.qkv(self.norm1(x)).split(D, -1)]
        self.keys[:, :, n:n + 1], self.values[:, :, n:n + 1] = k, v
        keys, values = self.keys[:, :, :n + 1], self.values[:, :, :n + 1]
        if hasattr(F, "scaled_dot_product_attention"):
            a = F.scaled_dot_product_attention(q, keys, values)
        else:
            a = (q @ keys.transpose(-1, -2) * (D // H) ** -0.5).softmax(-1) @ values
        x = x + self.out(a.reshape(args.batch, 1, D))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


torch.set_num_threads(args.threads)
torch.manual_seed(0)
print(f"torch {torch.__version__}, {args.threads} threads, batch {args.batch}")
with torch.inference_mode():
    for length in [int(n) for n in args.lengths.split(",")]:
        table, head, norm = nn.Embedding(args.vocab, D), nn.Linear(D, args.vocab, bias=False), nn.LayerNorm(D)
        blocks = [Block(length + args.steps + 4) for _ in range(args.layers)]
        token, times = torch.zeros(args.batch, 1, dtype=torch.long), []
        for i in range(args.steps + 4):
            start = time.perf_counter()
            x = table(token)
            for block in blocks:
                x = block(x, length + i)
            token = head(norm(x)).argmax(-1)
            if i >= 4:
                times.append(time.perf_counter() - start)
        step = statistics.median(times)
        print(f"length {length}: {step * 1e3:.1f} ms a step = {args.batch / step:.0f} tok/s", flush=True)
