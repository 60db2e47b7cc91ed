#!/usr/bin/env python3
"""How much of the all-reduce hides behind backward on a slow link: two hosts (namespaces) joined at
1 Gbit/s, a rank of one thread on each, `t2r train` with and without --no-overlap in turns.

  T2R=build/bin/t2r python3 bench/overlap_slow_link.py [--rate 1gbit] [--rounds 5] [--extra OPTION...]

Needs root. The model is chosen so that computing and communicating take about equal times. Hidden
of the exposed time: 1 - exposed with overlap / exposed without. Hidden of the whole update: what the
update became shorter by, over the same.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(SOURCE, "tests", "cluster"), os.path.join(SOURCE, "tests", "launch")]
import hosts  # noqa: E402

if __name__ == "__main__":
    hosts.enter_namespaces("mpirun", "tc")

import harness  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--sequences", type=int, default=10)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--extra", nargs="*", default=[], help="more options of t2r train")
    options = parser.parse_args()

    folder = tempfile.mkdtemp(prefix="t2r-overlap-")
    state = os.path.join(folder, "state")
    os.mkdir(state)
    text = harness.write(os.path.join(folder, "text"), harness.documents(600, 1))
    data = os.path.join(folder, "data")
    harness.ok("prepare", "--text", text, "--tokenizer", "bytes", "--workers", "1", "--out", data)
    cluster = hosts.Hosts(2, state, [folder])
    for name in cluster.names:
        cluster.limit(name, options.rate)
    hostfile = harness.write(os.path.join(folder, "hostfile"), "n0 slots=1\nn1 slots=1\n")

    def train(name, *more):
        """Seconds an update: computing, exposed communication."""
        out = os.path.join(folder, name)
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run(
            ["bash", os.path.join(SOURCE, "launch", "mpirun.sh"), "--hostfile", hostfile, "2",
             "train", "--data", data, "--out", out, "--layers", str(options.layers),
             "--hidden-size", str(options.hidden_size), "--heads", "4", "--batch-size",
             str(options.sequences), "--sequence-length", str(options.sequence_length),
             "--threads", "1", "--packing", "contiguous", "--steps", str(options.steps),
             *options.extra, *more],
            env={**harness.environment(), **cluster.environment(), "T2R": harness.T2R},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
        summary = harness.read_json(os.path.join(out, "summary.json"))
        with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
            losses = [json.loads(line)["loss"] for line in file]
        return (summary["compute_seconds"] / options.steps,
                summary["exposed_communication_seconds"] / options.steps, losses)

    rows = []
    print(f"{options.layers} layers, hidden {options.hidden_size}, {options.sequences} sequences of "
          f"{options.sequence_length}, {options.rate}, ms an update\n\n"
          "| round | computing | all-reduce, not overlapped | update | computing, overlapped | "
          "exposed | update | hidden of the exposed | of the update |\n|" + "---|" * 9)
    for number in range(options.rounds):
        plain, exposed_plain, losses = train("plain", "--no-overlap")
        overlapped, exposed, same = train("overlapped")
        if losses != same:
            sys.exit("the losses differ")
        row = [plain, exposed_plain, plain + exposed_plain, overlapped, exposed,
               overlapped + exposed]
        rows.append(row)
        show(number + 1, row)
    show("median", [statistics.median(column) for column in zip(*rows)])
    cluster.close()
    shutil.rmtree(folder)


def show(name, row):
    exposed = 1 - row[4] / row[1]
    update = (row[2] - row[5]) / row[1]
    print(f"| {name} | " + " | ".join(f"{1000 * value:.0f}" for value in row) +
          f" | {100 * exposed:.0f} % | {100 * update:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
