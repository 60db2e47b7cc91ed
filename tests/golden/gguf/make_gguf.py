#!/usr/bin/env python3
"""Makes types.gguf: a tensor of each element type that can be read and, as F32, what the authors' own
library dequantises it to (pip install gguf; made with 0.19). Tests read the file and need no Python.
"""
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

ROWS, COLUMNS = 3, 512
HALVES = {  # where the 16-bit floating-point scales of a block lie: random bytes there could be NaN
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
    "Q6_K": [208],
}


def main():
    random = np.random.default_rng(1)
    writer = GGUFWriter(pathlib.Path(__file__).parent / "types.gguf", "llama")
    writer.add_uint32("test.uint32", 7)
    writer.add_int64("test.int64", -8)
    writer.add_float32("test.float32", 0.5)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "grün")
    writer.add_array("test.strings", ["a", "", "b c"])
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.floats", [1.5, -2.0])
    for name, places in HALVES.items():
        kind = Type[name]
        elements, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ROWS, COLUMNS // elements, size), dtype=np.uint8)
        for place in places:
            scales = random.normal(size=(ROWS, COLUMNS // elements, 1)).astype(np.float16)
            blocks[:, :, place:place + 2] = scales.view(np.uint8)
        rows = blocks.reshape(ROWS, -1)
        writer.add_tensor(name, rows, raw_dtype=kind)
        writer.add_tensor(f"{name}.expected", dequantize(rows, kind))
    values = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    values[0, :4] = [0, -0.0, 1e-7, 6e4]
    half = values.astype(np.float16)
    writer.add_tensor("F16", half)
    writer.add_tensor("F16.expected", half.astype(np.float32))
    bf16 = (values.view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor("BF16", bf16.view(np.uint8), raw_dtype=Type.BF16)
    writer.add_tensor("BF16.expected", (bf16.astype(np.uint32) << 16).view(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
