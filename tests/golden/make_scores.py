"""Makes tests/golden/scores/: worsened copies *.hyp of the sentences in *.ref (odd.hyp is written
by hand), and expected.json with the scores and tokens that the Python package sacrebleu gives. Run
once; the results are committed.

python3 make_scores.py     (needs sacrebleu 2.x; no dependency of t2r)
"""
import json
import pathlib

import sacrebleu
import score_reference

FOLDER = pathlib.Path(__file__).parent / "scores"


def read(name):
    return (FOLDER / name).read_bytes().decode("utf-8").split("\n")[:-1]


def case(name, hypotheses, references, tokenize, lowercase, compound_split):
    score = (score_reference.compound_split(hypotheses, references, lowercase, tokenize == "none")
             if compound_split else
             score_reference.bleu(hypotheses, references, tokenize, lowercase))
    return {"set": name, "tokenize": tokenize, "lowercase": lowercase,
            "compound_split": compound_split, **score,
            **score_reference.chrf(hypotheses, references, lowercase)}


scores, small = [], []
for seed, name in enumerate(["de", "fr", "zh", "odd"]):
    references = read(name + ".ref")
    if name != "odd":
        lines = score_reference.worsened_copy(references, seed, 0.06)
        (FOLDER / (name + ".hyp")).write_bytes("".join(s + "\n" for s in lines).encode("utf-8"))
    for lowercase in (False, True):
        for tokenize in score_reference.TOKENIZATIONS:
            scores.append(case(name, read(name + ".hyp"), references, tokenize, lowercase, False))
        for tokenize in ("13a", "none"):
            scores.append(case(name, read(name + ".hyp"), references, tokenize, lowercase, True))
# Nothing right, and nothing at all: where smoothing and penalties have their ends.
for name, hypotheses, references in [
        ("none right", ["a b c d e"], ["v w x y z"]),
        ("one word right", ["a v w x y"], ["a b c d e"]),
        ("two words right", ["a b v w x y a b"], ["a b c d e f g h"]),
        ("short", ["a b"], ["a b c d e f"]),
        ("reference short", ["a b c d e", "a b c d e f"], ["ab", "a b c d f f"]),
        ("no hypothesis", ["", ""], ["a b c d", "e"]),
        ("no reference", ["a b c d", "e"], ["", ""]),
        ("nothing", [""], [""])]:
    for compound_split in (False, True):
        small.append({"hypotheses": hypotheses, "references": references,
                      **case(name, hypotheses, references, "13a", False, compound_split)})

odd = read("odd.ref") + read("odd.hyp")
tokens = [{"tokenize": t, "sentence": s, "tokens": score_reference.tokens(s, t)}
          for t in score_reference.TOKENIZATIONS for s in odd]
lower = [[s, s.lower()] for s in odd]
expected = {"sacrebleu": sacrebleu.__version__, "scores": scores, "small": small,
            "tokens": tokens, "lower": lower}
rows = [f' "{key}": [\n' + ",\n".join("  " + json.dumps(row, ensure_ascii=True) for row in value)
        + "\n ]" if isinstance(value, list) else f' "{key}": "{value}"'
        for key, value in expected.items()]
(FOLDER / "expected.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
