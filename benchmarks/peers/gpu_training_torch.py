#!/usr/bin/env python3
"""PyTorch's side of benchmarks/gpu/vs_peers.py: FOLDER NAME, where NAME is an attention (flash, cudnn, efficient) or "convolution".

As a careful user has it: compiled as a whole, bf16 by autocast over f32 weights, fused optimizer, channels-last images, losses read late.
"""

import json
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import make_model
from training_torch import load_weights
from turns import take_turns

ATTENTIONS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}


def build(case):
    if case["model"] == "resnet50":
        import torchvision

        return torchvision.models.resnet50()
    return make_model(case)


def main():
    folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    case = json.loads((folder / "case.json").read_text())
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    images = case["model"] != "gpt"
    model = build(case)
    decaying = load_weights(model, folder)
    torch.set_default_device("cuda")
    model = model.cuda()
    if images:
        model = model.to(memory_format=torch.channels_last)
    groups = [{"params": [p for n, p in model.named_parameters() if n in decaying], "weight_decay": case["decay"]},
              {"params": [p for n, p in model.named_parameters() if n not in decaying], "weight_decay": 0.0}]
    if case["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(groups, lr=case["rate"], momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=case["rate"], fused=True)
    parameters = list(model.parameters())

    def loss_of(x, target):
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(x)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), target.view(-1))

    compiled = torch.compile(loss_of)

    def read(file, dtype, shape):
        values = np.fromfile(folder / file, dtype).reshape(case["batches"], case["rows"], *shape)
        return [torch.from_numpy(v).cuda() for v in values]

    if images:
        inputs = [x.permute(0, 3, 1, 2) for x in read("inputs.bin", np.float32, case["input"])]  # channels-last, no copy
    else:
        inputs = [x.long() for x in read("inputs.bin", np.int32, case["input"])]
    targets = [x.long() for x in read("targets.bin", np.int32, [] if images else case["input"])]
    done = 0

    def train(steps):
        nonlocal done
        losses = []
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            b = done % case["batches"]
            loss = compiled(inputs[b], targets[b])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if case["clip"] > 0:
                torch.nn.utils.clip_grad_norm_(parameters, case["clip"])
            optimizer.step()
            losses.append(loss.detach())
            done += 1
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / steps
        return {"losses": [x.item() for x in losses], "seconds": [seconds] * steps, "peak_bytes": torch.cuda.max_memory_allocated()}

    if images:
        take_turns(folder, name, 0, train)
    else:
        with sdpa_kernel(ATTENTIONS[name]):
            take_turns(folder, name, 0, train)


if __name__ == "__main__":
    main()
