#!/usr/bin/env python3
"""Sentence pairs from the HTML pages of the LibreOffice help in two languages, split into train,
valid and test by a hash of each page's name, so that a page never changes its split.

The same element of the same page is a pair: paragraphs and headings have ids that all languages
share. Left out: untranslated ones, targets under ten characters, repeated pairs, and of valid and
test pairs those whose text on either side is in a training pair too (the help includes the same
sections in many pages)."""

import argparse
import hashlib
import html
import os
import re
import sys

ELEMENT = re.compile(r'<(p|h[1-6]) id="((?:par|hd)_[^"]*)"[^>]*>(.*?)</\1>', re.DOTALL)
TAG = re.compile(r"<[^>]*>")
SPLITS = ("train", "valid", "test")


def texts_of_page(path):
    """id of an element -> its text, the first of each id."""
    texts = {}
    with open(path, encoding="utf-8") as file:
        for _, name, inner in ELEMENT.findall(file.read()):
            texts.setdefault(name, " ".join(html.unescape(TAG.sub("", inner)).split()))
    return texts


def pages(folder):
    """Paths of the pages, relative to the folder, in their order."""
    return sorted(os.path.relpath(os.path.join(root, name), folder) for root, _, names
                  in os.walk(folder) for name in names if name.endswith(".html"))


def pairs_of_help(source_folder, target_folder):
    """(page, source, target) of every pair."""
    seen = set()
    for page in pages(source_folder):
        target_page = os.path.join(target_folder, page)
        if not os.path.exists(target_page):
            continue
        targets = texts_of_page(target_page)
        for name, source in texts_of_page(os.path.join(source_folder, page)).items():
            pair = source, targets.get(name, "")
            if not source or len(pair[1]) < 10 or source == pair[1] or pair in seen:
                continue
            seen.add(pair)
            yield (page, *pair)


def split_of(page):
    """4 % of the pages are valid, 4 % test."""
    share = int.from_bytes(hashlib.sha256(page.encode()).digest()[:8], "big") / 2**64
    return "valid" if share < 0.04 else "test" if share < 0.08 else "train"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="folder .../libreoffice/help/zh-CN/text")
    parser.add_argument("--target", required=True, help="folder .../libreoffice/help/en-US/text")
    parser.add_argument("--out", required=True, help="folder for train.source and so on")
    options = parser.parse_args()
    chosen = {split: [] for split in SPLITS}
    documents = {split: set() for split in SPLITS}
    try:
        for page, source, target in pairs_of_help(options.source, options.target):
            chosen[split_of(page)].append((source, target))
            documents[split_of(page)].add(page)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"extract_pairs: cannot read the help: {error}")
    known = {text for pair in chosen["train"] for text in pair}
    for split in ("valid", "test"):
        chosen[split] = [pair for pair in chosen[split] if known.isdisjoint(pair)]
    if not all(chosen.values()):
        sys.exit("extract_pairs: the folders share too few pages for three splits")
    os.makedirs(options.out, exist_ok=True)
    for split in SPLITS:
        for side, name in enumerate(("source", "target")):
            path = os.path.join(options.out, f"{split}.{name}")
            with open(path + ".part", "w", encoding="utf-8", newline="\n") as file:
                file.writelines(pair[side] + "\n" for pair in chosen[split])
            os.replace(path + ".part", path)
        print(f"{split}: {len(documents[split])} pages, {len(chosen[split])} pairs",
              file=sys.stderr)


if __name__ == "__main__":
    main()
