#!/usr/bin/env python3
"""What a rank keeps on different meshes: trains a few updates of one model on each and prints a table.

    python3 bench/memory_per_rank.py [BUILD]        (BUILD: the build folder, default build)
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

# name, ranks, options
MESHES = [
    ("1 rank", 1, []),
    ("--recompute", 1, ["--recompute"]),
    ("--tp 2", 2, ["--tp", "2"]),
    ("--tp 2 --sequence-parallel", 2, ["--tp", "2", "--sequence-parallel"]),
    ("--tp 4", 4, ["--tp", "4"]),
    ("--dp 4", 4, []),
    ("--dp 4 --optimizer-sharding on", 4, ["--optimizer-sharding", "on"]),
    ("--cp 4", 4, ["--cp", "4"]),
]
MODEL = ["--layers", "6", "--hidden-size", "512", "--heads", "8", "--sequence-length", "512",
         "--batch-size", "4", "--micro-batch", "1", "--feature-map", "t2r", "--feature-size", "32"]


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    program = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else here / "build") / "bin/t2r"
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder, "text.txt")
        text.write_text("\n\n".join(f"{i} bottles of beer on the wall, {i} bottles of beer. " * 40
                                    for i in range(400)))
        data = folder + "/data"
        subprocess.run([program, "prepare", "--text", text, "--tokenizer", "bytes", "--shards", "1",
                        "--out", data], check=True, capture_output=True)
        print("| mesh | precision | parameters | gradients | optimizer state | activations |")
        print("|---|---|---|---|---|---|")
        for precision in ("fp32", "bf16"):
            for name, ranks, options in MESHES:
                run = f"{folder}/run-{precision}-{name.replace(' ', '')}"
                command = [program, "train", "--data", data, "--out", run, "--steps", "2", *MODEL,
                           "--precision", precision, "--threads", "1", *options]
                if ranks > 1:
                    command = ["mpirun", "--bind-to", "none", "--oversubscribe", "-np", str(ranks),
                               *command]
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode != 0:
                    sys.exit(done.stderr)
                memory = json.loads(pathlib.Path(run, "summary.json").read_text())["memory"]
                row = [f"{memory[key + '_bytes'] / 2**20:.1f} MiB"
                       for key in ("parameters", "gradients", "optimizer", "activations")]
                print(f"| {name} | {precision} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
