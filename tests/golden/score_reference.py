"""What make_scores.py and compare_scores.py share: worsened copies of sentences, and the scores that
the Python package sacrebleu gives (needs sacrebleu 2.x; no dependency of t2r)."""
import logging
import random
import re

import sacrebleu
from sacrebleu.metrics.bleu import _get_tokenizer

logging.getLogger("sacrebleu").setLevel(logging.ERROR)  # some hypotheses look tokenised: on purpose
TOKENIZATIONS = ["13a", "zh", "intl", "char", "none"]
MARKS = [".", ",", "!", "?", ";", ":", "-", "'", '"', "„", "”", "«", "»", "…", "。", "，", "、", "“", "—",
         "%", "€", "+", "(", ")", "&quot;", "&amp;", "  ", "\u00a0", "\u3000"]


def worsened(sentence, rng, rate):
    """Words (characters where there are no spaces) dropped, doubled, swapped, in another case, or
    with a mark changed, each at `rate`."""
    spaced = " " in sentence.strip()
    units = sentence.split(" ") if spaced else list(sentence)
    out = []
    for unit in units:
        choice = rng.random() / rate
        if choice < 1:
            continue
        out.append(unit)
        if choice < 2:
            out.append(unit)
        elif choice < 3 and len(out) > 1:
            out[-2:] = out[:-3:-1]
        elif choice < 4:
            out[-1] = rng.choice([str.upper, str.lower, str.title, str.swapcase])(unit)
        elif choice < 5:
            out[-1] += rng.choice(MARKS)
        elif choice < 6:
            out[-1] = re.sub(r"\W", lambda m: rng.choice(MARKS + [""]), unit)
        elif choice < 6.5:
            out[-1] += rng.choice(["-", "", "."]) + rng.choice(["x", "7", "ß", "世"])
    return "" if rng.random() < rate / 10 else (" " if spaced else "").join(out)


def worsened_copy(sentences, seed, rate):
    rng = random.Random(seed)
    return [worsened(sentence, rng, rate).replace("\n", " ") for sentence in sentences]


def result(bleu, score):
    return {"bleu": score.score, "precisions": score.precisions, "brevity_penalty": score.bp,
            "lengths": [score.sys_len, score.ref_len], "signature": signature(bleu)}


def signature(metric):
    return re.sub(r"version:.*", "version:t2r", str(metric.get_signature()))


def bleu(hypotheses, references, tokenize, lowercase):
    metric = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
    return result(metric, metric.corpus_score(hypotheses, [references]))


def chrf(hypotheses, references, lowercase):
    metric = sacrebleu.CHRF(lowercase=lowercase)
    score = metric.corpus_score(hypotheses, [references]).score
    return {"chrf": score, "chrf_signature": signature(metric)}


def compound_tokens(sentence, tokenised):
    """13a without its last rule, unless `tokenised`; then compounds split: code of its own, since
    sacrebleu has none."""
    if not tokenised:
        for mark, text in [("<skipped>", ""), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"),
                           ("&gt;", ">")]:
            sentence = sentence.replace(mark, text)
        sentence = re.sub(r"""([!-&(-+/:-@[-`{-~])""", r" \1 ", " " + sentence + " ")
        sentence = re.sub(r"([^0-9])([.,])", r"\1 \2 ", sentence)
        sentence = re.sub(r"([.,])([^0-9])", r" \1 \2", sentence)
    parts = []
    for i, c in enumerate(sentence):
        between = 0 < i < len(sentence) - 1 and (sentence[i - 1] + sentence[i + 1]).isalnum()
        parts.append(" ##AT##-##AT## " if c == "-" and between else c)
    return "".join(parts)


def compound_split(hypotheses, references, lowercase, tokenised):
    metric = sacrebleu.BLEU(tokenize="none", lowercase=lowercase, smooth_method="none")
    if lowercase:
        hypotheses, references = ([s.lower() for s in side] for side in (hypotheses, references))
    sides = [[compound_tokens(s, tokenised) for s in side] for side in (hypotheses, references)]
    metric.lowercase = False  # the marks keep their capitals
    score = result(metric, metric.corpus_score(sides[0], [sides[1]]))
    name = ("none" if tokenised else "13a") + "+compound-split"
    score["signature"] = (f"nrefs:1|case:{'lc' if lowercase else 'mixed'}|eff:no|tok:{name}|"
                          "smooth:none|version:t2r")
    return score


def tokens(sentence, tokenize):
    return _get_tokenizer(tokenize)()(sentence.rstrip()).split()
