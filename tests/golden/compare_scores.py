"""Compares `t2r evaluate --hypotheses` with the Python package sacrebleu on real test sets.

python3 compare_scores.py T2R FOLDER [--only TEXT] [--quick] [--rate 0.03] [--seed 1]
(needs sacrebleu 2.x)

T2R is the program. FOLDER holds test sets, at any depth, as NAME.LANGUAGE or NAME.LANGUAGE.gz, one
sentence a line; files of one NAME in one folder are translations of each other. Every file is a
reference: for a copy of it that is worsened (words dropped, doubled, swapped, in another case, with
other marks; the same for a given seed), with every tokenization, with and without --lowercase and
--compound-split; and for its first translation, with 13a (hardly a word is right: smoothing). Two
more pairs go over all of Unicode. A line is printed for each pair, and one for each number that is
not the same to 1e-6; the exit status is 1 if there was one."""
import argparse
import collections
import gzip
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import score_reference

TOLERANCE = 1e-6
NUMBERS = ["bleu", "chrf", "brevity_penalty", "signature", "chrf_signature"]


def read(path):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = data.decode("utf-8")
    return text[:-1].split("\n") if text.endswith("\n") else text.split("\n")


def differences(got, expected):
    keys = [k for k in NUMBERS if k in expected]
    pairs = [(k, got[k], expected[k]) for k in keys]
    pairs += [(f"precision {n + 1}", got["precisions"][n], expected["precisions"][n])
              for n in range(4)]
    return [f"    {k}: {a} instead of {b}" for k, a, b in pairs
            if a != b and (isinstance(a, str) or abs(a - b) > TOLERANCE)]


class Comparison:
    def __init__(self, program, folder):
        self.program, self.folder = program, pathlib.Path(folder)
        self.compared = self.different = 0

    def t2r(self, *flags):
        command = [self.program, "evaluate", "--json", "--hypotheses", self.folder / "hypotheses",
                   "--references", self.folder / "references", *flags]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)

    def compare(self, name, expected, *flags):
        found = differences(self.t2r(*flags), expected)
        self.compared += 1
        self.different += bool(found)
        if found:
            print(f"  {name} {' '.join(flags)}:", *found, sep="\n")

    def pair(self, name, hypotheses, references, tokenizations, compounds=True,
             cases=(False, True)):
        for side, sentences in [("hypotheses", hypotheses), ("references", references)]:
            (self.folder / side).write_bytes("".join(s + "\n" for s in sentences).encode("utf-8"))
        for lowercase in cases:
            case = ["--lowercase"] * lowercase
            chrf = score_reference.chrf(hypotheses, references, lowercase)
            for tokenize in tokenizations:
                expected = score_reference.bleu(hypotheses, references, tokenize, lowercase)
                self.compare(name, {**expected, **chrf}, "--tokenize", tokenize, *case)
            for tokenize in ["13a", "none"] * compounds:
                expected = score_reference.compound_split(hypotheses, references, lowercase,
                                                          tokenize == "none")
                self.compare(name, expected, "--tokenize", tokenize, "--compound-split", *case)
        print(f"{name}: {len(references)} sentences; {self.compared} scores, "
              f"{self.different} different", flush=True)


def all_of_unicode(seed):
    """Every assigned character once, among letters, digits and marks; words of one to five."""
    rng = random.Random(seed)
    characters = [chr(c) for c in range(1, 0x110000)
                  if c != 10 and unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    text = "".join(c + rng.choice(["", "", "a", "B", "5", ".", " ", "Σ"]) for c in characters)
    return [text[i:i + 80] for i in range(0, len(text), 80)]


def test_sets(folder):
    sets = collections.defaultdict(list)
    for path in sorted(pathlib.Path(folder).rglob("*")):
        stem, _, language = path.name.removesuffix(".gz").rpartition(".")
        if path.is_file() and stem and len(language) == 2:
            sets[path.parent / stem].append(path)
    return sets


def compare_file(comparison, path, translations, options):
    lines = read(path)
    worsened = score_reference.worsened_copy(lines, options.seed, options.rate)
    if options.quick:
        tokenize = "zh" if ".zh" in path.name else ["13a", "intl"][len(lines) % 2]
        comparison.pair(path.name, worsened, lines, [tokenize], compounds=False, cases=[False])
        return
    comparison.pair(path.name, worsened, lines, score_reference.TOKENIZATIONS)
    for other in translations[:1]:
        comparison.pair(f"{path.name}, translation {other.name}", read(other), lines, ["13a"],
                        compounds=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("--only", default="", help="files whose path holds this text")
    parser.add_argument("--quick", action="store_true",
                        help="one tokenization a file (zh for .zh, else 13a or intl), case as it is")
    parser.add_argument("--rate", type=float, default=0.03, help="of each kind of change, per word")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(options.program, folder)
        if options.only in "unicode":
            lines = all_of_unicode(options.seed)
            worsened = score_reference.worsened_copy(lines, options.seed, options.rate)
            comparison.pair("unicode", worsened, lines, score_reference.TOKENIZATIONS)
            comparison.pair("unicode, lower case", lines, [line.lower() for line in lines],
                            score_reference.TOKENIZATIONS)
        for paths in test_sets(options.folder).values():
            for path in [p for p in paths if options.only in str(p)]:
                compare_file(comparison, path, [p for p in paths if p != path], options)
    print(f"{comparison.compared} scores compared, {comparison.different} different")
    sys.exit(1 if comparison.different or not comparison.compared else 0)


main()
