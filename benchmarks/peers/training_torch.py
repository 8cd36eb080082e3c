#!/usr/bin/env python3
"""PyTorch's side of benchmarks/cpu_vs_peers.py: FOLDER NAME (eager or compiled) RANK RANKS THREADS.

As a careful user has it: channels-last images, fused AdamW, gradients as views of the buckets of DistributedDataParallel (gloo).
"""

import json
import os
import pathlib
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from models import make_model
from turns import take_turns


def peak_bytes():
    with open("/proc/self/status") as status:  # getrusage would count what the parent process held
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def load_weights(model, folder):
    """Copies Lockstep's initial weights into the model; returns the names of those that decay."""
    values = np.fromfile(folder / "weights.bin", np.float32)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    at, decaying = 0, set()
    with torch.no_grad():
        for entry in json.loads((folder / "weights.json").read_text()):
            size = int(np.prod(entry["shape"]))
            value = torch.from_numpy(values[at:at + size].reshape(entry["shape"]))
            at += size
            if len(entry["shape"]) == 4:
                value = value.permute(0, 3, 1, 2)  # (out, height, width, in) -> PyTorch's (out, in, height, width)
            tensors.pop(entry["name"]).copy_(value)
            if entry["decay"]:
                decaying.add(entry["name"])
    left = [name for name in tensors if not name.endswith("num_batches_tracked")]
    assert at == values.size and not left, f"weights that Lockstep's model lacks: {left}"
    return decaying


def main():
    folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    rank, ranks, threads = (int(text) for text in sys.argv[3:6])
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[rank * threads:(rank + 1) * threads]))
    torch.set_num_threads(threads)
    case = json.loads((folder / "case.json").read_text())
    before = peak_bytes()
    model = make_model(case)
    decaying = load_weights(model, folder)
    images = case["model"] != "gpt"
    if images:
        model = model.to(memory_format=torch.channels_last)
    groups = [{"params": [p for n, p in model.named_parameters() if n in decaying], "weight_decay": case["decay"]},
              {"params": [p for n, p in model.named_parameters() if n not in decaying], "weight_decay": 0.0}]
    if case["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(groups, lr=case["rate"], momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.AdamW(groups, lr=case["rate"], fused=True)
    parameters = list(model.parameters())
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/{name}.rendezvous", rank=rank, world_size=ranks)
        model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    if name == "compiled":
        model = torch.compile(model)

    def read(file, dtype, shape):
        values = np.fromfile(folder / file, dtype).reshape(case["batches"], ranks, case["rows"], *shape)[:, rank]
        return [torch.from_numpy(np.ascontiguousarray(v)) for v in values]

    if images:
        inputs = [x.permute(0, 3, 1, 2) for x in read("inputs.bin", np.float32, case["input"])]  # channels-last, no copy
    else:
        inputs = [x.long() for x in read("inputs.bin", np.int32, case["input"])]
    targets = [x.long() for x in read("targets.bin", np.int32, [] if images else case["input"])]
    done = 0

    def train(steps):
        nonlocal done
        losses, times = [], []
        if ranks > 1:
            dist.barrier()
        for _ in range(steps):
            begun = time.perf_counter()
            b = done % case["batches"]
            logits = model(inputs[b])
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets[b].view(-1))
            optimizer.zero_grad(set_to_none=ranks == 1)
            loss.backward()
            if case["clip"] > 0:
                torch.nn.utils.clip_grad_norm_(parameters, case["clip"])
            optimizer.step()
            losses.append(loss.item())
            times.append(time.perf_counter() - begun)
            done += 1
        return {"losses": losses, "seconds": times, "peak_bytes": peak_bytes(), "bytes_before": before, "threads": torch.get_num_threads()}

    take_turns(folder, name, rank, train)
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
