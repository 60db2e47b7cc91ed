"""Token ids of the held-out stories, a story a line, for `t2r evaluate --token-ids`.

held_out.py TOKENIZER TEXTS: the tokenizer of llama2.c (tok512.bin), and texts parted by blank lines.
A text is <s>, then the pairs with the best score merged until none is left, cut to 512 tokens.
"""
import struct
import sys

MOST_TOKENS = 512


def read_vocabulary(path):
    with open(path, "rb") as file:
        data = file.read()
    pieces, scores, at = [], [], 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8:at + 8 + length])
        scores.append(score)
        at += 8 + length
    return pieces, scores


def encode(text, pieces, scores, ids):
    tokens = [1, ids[b" "]]
    for character in text:
        piece = character.encode("utf-8")
        tokens += [ids[piece]] if piece in ids else [byte + 3 for byte in piece]
    while True:
        best = None
        for i, (left, right) in enumerate(zip(tokens, tokens[1:])):
            merged = ids.get(pieces[left] + pieces[right])
            if merged is not None and (best is None or scores[merged] > best[0]):
                best = scores[merged], i, merged
        if best is None:
            return tokens
        tokens[best[1]:best[1] + 2] = [best[2]]


def main():
    pieces, scores = read_vocabulary(sys.argv[1])
    ids = {}
    for i, piece in enumerate(pieces):
        ids.setdefault(piece, i)
    with open(sys.argv[2], encoding="utf-8") as file:
        for text in file.read().strip().split("\n\n"):
            print(*encode(text, pieces, scores, ids)[:MOST_TOKENS])


if __name__ == "__main__":
    main()
