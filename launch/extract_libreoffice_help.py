#!/usr/bin/env python3
"""Plain text from the HTML pages of the LibreOffice help (or pages from a plain text), split into
train, valid and test by a hash of each page's name, so that a page never changes its split.

A page is a document: one paragraph or heading a line, documents separated by a blank line."""

import argparse
import hashlib
import html
import os
import re
import sys

ELEMENT = re.compile(r'<(p|h[1-6]) id="((?:par|hd)_[^"]*)"[^>]*>(.*?)</\1>', re.DOTALL)
TAG = re.compile(r"<[^>]*>")
SPLITS = ("train", "valid", "test")


def lines_of_page(page, seen):
    """Text of the paragraphs and headings of one page. A longer paragraph that an earlier page had
    is left out: the help includes the same sections in many pages, and validation must not ask for
    sentences that training has shown."""
    lines, ids = [], set()
    for _, name, inner in ELEMENT.findall(page):
        if name in ids:
            continue
        ids.add(name)
        text = " ".join(html.unescape(TAG.sub("", inner)).split())
        if not text or (len(text) >= 40 and text in seen):
            continue
        seen.add(text)
        lines.append(text)
    return lines


def documents_of_help(folder):
    """(relative path, lines) of every page, in the order of the paths."""
    paths = []
    for root, _, files in os.walk(folder):
        paths += [os.path.relpath(os.path.join(root, f), folder) for f in files if f.endswith(".html")]
    seen = set()
    for path in sorted(paths):
        with open(os.path.join(folder, path), encoding="utf-8") as file:
            lines = lines_of_page(file.read(), seen)
        if lines:
            yield path, lines


def documents_of_text(path):
    """(name, lines) of the documents of a plain text, which blank lines separate. A document's name
    is its text."""
    with open(path, encoding="utf-8") as file:
        for block in re.split(r"\n[ \t]*\n", file.read()):
            lines = [line for line in block.split("\n") if line.strip()]
            if lines:
                yield "\n".join(lines), lines


def split_of(name):
    """2 % of the names are valid, 2 % test."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "valid" if share < 0.02 else "test" if share < 0.04 else "train"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--help-folder", help="folder .../libreoffice/help/en-US/text")
    source.add_argument("--text", help="a plain text, documents separated by blank lines")
    parser.add_argument("--out", required=True, help="folder for train.txt, valid.txt, test.txt")
    options = parser.parse_args()

    try:
        documents = list(documents_of_help(options.help_folder) if options.help_folder
                         else documents_of_text(options.text))
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"extract_libreoffice_help: cannot read the text: {error}")
    chosen = {split: [] for split in SPLITS}
    for name, lines in documents:
        chosen[split_of(name)].append("\n".join(lines))
    missing = [split for split in SPLITS if not chosen[split]]
    if missing:
        sys.exit(f"extract_libreoffice_help: {len(documents)} documents leave none for "
                 f"{', '.join(missing)}: give a text with some hundred documents that blank lines "
                 "separate")
    os.makedirs(options.out, exist_ok=True)
    for split in SPLITS:
        path = os.path.join(options.out, split + ".txt")
        with open(path + ".tmp", "w", encoding="utf-8", newline="\n") as file:
            file.write("\n\n".join(chosen[split]) + "\n")
        os.replace(path + ".tmp", path)
        print(f"{split}: {len(chosen[split])} documents, {os.path.getsize(path):,} bytes",
              file=sys.stderr)


if __name__ == "__main__":
    main()
