"""Writes a few good inputs for each target: python3 seeds.py FOLDER"""
import json
import pathlib
import struct
import sys

root = pathlib.Path(sys.argv[1])
project = pathlib.Path(__file__).parents[2]


def seed(target, name, data):
    (root / target).mkdir(parents=True, exist_ok=True)
    (root / target / name).write_bytes(data)


def idx(code, shape, values):
    return struct.pack(">BBBB", 0, 0, code, len(shape)) + b"".join(struct.pack(">I", n) for n in shape) + values


def npy(header, values, version=1):
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    size = struct.pack("<H", len(text)) if version == 1 else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + values


labels = idx(8, [3], bytes([0, 2, 1]))
for name, images in {
    "grey": idx(8, [3, 2, 2], bytes(range(12))),
    "colour": idx(8, [3, 2, 2, 3], bytes(36)),
    "float": idx(13, [3, 2, 2], struct.pack(">12f", *range(12))),
}.items():
    seed("idx", name, struct.pack("<H", len(labels)) + labels + images)

seed("csv", "classes", b"\0a,b,kind\n1,2.5,red\n-3,4e2,blue\n0,0,\"re\"\"d\"\n")
seed("csv", "regression", b"\x01x;y\n1;2\n3;4\n5;6\n")
seed("csv", "plain", b"\x12" + b"".join(b"%d\t%d\t%d\n" % (i % 3, i, i * i) for i in range(20)))
seed("csv", "two", b"\x08id,v,t\r\n1,2,3\r\n\r\n4,5,6\r\n")

merges = "#version: 0.2\nh e\nl l\nhe ll\nhell o\n\u0120 w\no r\n"
text = "hello world, it's 12 o'clock \u4f60\u597d \U0001f600\n\n  end".encode()
seed("bpe", "valid", b"\x01" + merges.encode() + b"\0\0" + text)
shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
symbols = [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))] + ["he", "ll", "hell", "hello", "<|endoftext|>"]
table = json.dumps({s: i for i, s in enumerate(symbols)})
seed("bpe", "whole", b"\0" + b"h e\nl l\nhe ll\nhell o\n\0" + table.encode() + b"\0" + text)

for path in project.glob("examples/*/*.toml"):
    seed("config", path.name, path.read_bytes())

seed("npy", "ints", npy("{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }", struct.pack("<6i", *range(6))))
seed("npy", "fortran", npy("{'descr': '>f8', 'fortran_order': True, 'shape': (2, 2), }", struct.pack(">4d", 1, 2, 3, 4)))
seed("npy", "wide", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5,), }", bytes(5), version=2))

header = json.dumps({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
                     "b": {"dtype": "F16", "shape": [3], "data_offsets": [16, 22]}, "c": {"dtype": "I64", "shape": [0], "data_offsets": [22, 22]}})
seed("safetensors", "valid", struct.pack("<Q", len(header)) + header.encode() + bytes(22))
