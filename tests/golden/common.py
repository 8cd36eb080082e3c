"""What every golden file shares: reproducible inputs, gradients by PyTorch in float64, and the writer."""

import json
import pathlib
import struct
import zlib

import numpy
import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
FOLDER = pathlib.Path(__file__).parent


def generator(name):
    return numpy.random.default_rng(zlib.crc32(name.encode()))


def to_bf16(x):
    """The nearest bf16 values, so that one golden file serves f32 and bf16 without rounding of the inputs."""
    return x.to(torch.bfloat16).to(torch.float64)


def normal(name, *shape, deviation=1.0, mean=0.0):
    """float64 tensor of normal numbers that bf16 can hold, decided by `name` and the shape."""
    numbers = generator(f"{name}{shape}").standard_normal(shape)
    return to_bf16(torch.from_numpy(numpy.asarray(numbers)) * deviation + mean)


def integers(name, low, high, *shape):
    return torch.from_numpy(generator(f"{name}{shape}").integers(low, high, shape))


class Golden:
    """The cases of one file, tests/golden/<name>.safetensors. A case has tensors and attributes (numbers, words)."""

    def __init__(self, name):
        self.name, self.tensors, self.attributes = name, {}, {}

    def add(self, case, tensors, **attributes):
        """Inputs that bf16 holds exactly are stored as such, other values as f32, integers as i32."""
        for key, value in tensors.items():
            assert "/" not in case and f"{case}/{key}" not in self.tensors, case
            self.tensors[f"{case}/{key}"] = value.detach()
        self.attributes[f"{case}/"] = ""
        for key, value in attributes.items():
            self.attributes[f"{case}/{key}"] = str(int(value) if isinstance(value, bool) else value)

    def add_with_gradients(self, case, function, inputs, constants=None, **attributes):
        """Runs y = function(*inputs, *constants), in the order given, and stores inputs, constants, y, an upstream gradient dy and the gradient d<name>
        of every input. `function` may return a dict of outputs; the gradient is then of "y"."""
        constants = constants or {}
        leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
        result = function(*leaves.values(), *constants.values())
        outputs = result if isinstance(result, dict) else {"y": result}
        y = outputs["y"]
        dy = normal(f"{self.name}/{case}/dy", *y.shape)
        gradients = torch.autograd.grad(y, list(leaves.values()), dy)
        self.add(case, {**inputs, **constants, **outputs, "dy": dy,
                        **{f"d{k}": g for k, g in zip(leaves, gradients)}}, **attributes)

    def write(self):
        header, pieces, offset = {"__metadata__": self.attributes}, [], 0
        for key, value in self.tensors.items():
            if not value.is_floating_point():
                kind, data = "I32", value.to(torch.int32).contiguous().numpy().tobytes()
            elif torch.equal(to_bf16(value), value):
                kind, data = "BF16", value.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
            else:
                kind, data = "F32", value.to(torch.float32).contiguous().numpy().tobytes()
            header[key] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [offset, offset + len(data)]}
            pieces.append(data)
            offset += len(data)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        path = FOLDER / f"{self.name}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))
        print(f"{path.name}: {len(self.tensors)} tensors, {path.stat().st_size} bytes")
