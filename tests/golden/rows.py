"""Golden values of the kernels that work element by element or row by row, and of the optimizers."""

import torch
import torch.nn.functional as F

from common import integers, normal

SHAPES = [(3, 5), (7, 33), (5, 128), (3, 259)]


def unary(golden):
    ops = {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "silu": F.silu,
    }
    for name, op in ops.items():
        for n in (1, 37, 1000):
            golden.add_with_gradients(f"{name} {n}", op, {"x": normal(f"unary/{name}", n, deviation=2)}, op=name)


def binary(golden):
    ops = {"add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div}
    for name, op in ops.items():
        for rows, columns in SHAPES:
            for kind, shape in (("full", (rows, columns)), ("row", (columns,))):
                b = normal(f"binary/{name}/{kind}/b", *shape)
                if name == "divide":
                    b = torch.where(b < 0, b - 0.5, b + 0.5).to(torch.bfloat16).to(torch.float64)
                golden.add_with_gradients(f"{name} {kind} {rows}x{columns}", lambda a, b: op(a, b),
                                          {"a": normal(f"binary/{name}/{kind}/a", rows, columns), "b": b}, op=name)


def reduce(golden):
    ops = {"sum": lambda x: x.sum(-1), "mean": lambda x: x.mean(-1), "max": lambda x: x.max(-1).values}
    for name, op in ops.items():
        for rows, columns in SHAPES + [(4, 1), (1, 1000)]:
            golden.add_with_gradients(f"{name} {rows}x{columns}", op,
                                      {"x": normal(f"reduce/{name}", rows, columns)}, op=name)
    for rows, columns in SHAPES + [(100, 17), (150, 1), (1, 9)]:
        x = normal("reduce/rows", rows, columns)
        golden.add(f"rows {rows}x{columns}", {"x": x, "y": x.sum(0), "all": x.sum().reshape(1), "arg_max": x.argmax(-1)},
                   op="rows")


def softmax(golden):
    for rows, columns in SHAPES + [(4, 1), (2, 1000)]:
        golden.add_with_gradients(f"{rows}x{columns}", lambda x: F.softmax(x, -1),
                                  {"x": normal("softmax", rows, columns, deviation=3)})


def norm(golden):
    epsilon = 1e-5
    for kind in ("layer", "rms"):
        for rows, columns in SHAPES + [(150, 12), (1, 9)]:
            for residual in (False, True):
                inputs = {"x": normal("norm/x", rows, columns, mean=0.5), "w": normal("norm/w", columns, mean=1.0)}
                if kind == "layer":
                    inputs["b"] = normal("norm/b", columns)
                if residual:
                    inputs["residual"] = normal("norm/residual", rows, columns)

                def run(*tensors):
                    given = dict(zip(inputs, tensors))
                    x, w, b, residual = (given.get(k) for k in ("x", "w", "b", "residual"))
                    s = x if residual is None else x + residual
                    if kind == "layer":
                        y = F.layer_norm(s, (columns,), w, b, epsilon)
                    else:
                        y = s * torch.rsqrt((s * s).mean(-1, keepdim=True) + epsilon) * w
                    return {"s": s, "y": y}

                golden.add_with_gradients(f"{kind}{' residual' if residual else ''} {rows}x{columns}", run, inputs,
                                          kind=kind, epsilon=epsilon)


def cross_entropy(golden):
    for rows, columns in SHAPES + [(9, 1), (2, 1003)]:
        for smoothing in (0.0, 0.125):
            for ignored in (False, True):
                targets = integers("cross_entropy/targets", 0, columns, rows)
                if ignored:
                    targets[::2] = -100
                logits = normal("cross_entropy", rows, columns, deviation=3)
                leaf = logits.clone().requires_grad_()
                losses = F.cross_entropy(leaf, targets, reduction="none", label_smoothing=smoothing)
                (gradient,) = torch.autograd.grad(losses.sum(), leaf)
                golden.add(f"{rows}x{columns} {smoothing}{' ignored' if ignored else ''}",
                           {"logits": logits, "targets": targets, "y": losses, "log_sum": torch.logsumexp(leaf, -1),
                            "dlogits": gradient}, smoothing=smoothing)


def embedding(golden):
    for rows, columns, batch, length in ((11, 7, 3, 5), (50, 32, 4, 16), (300, 33, 2, 9), (3, 65, 1, 40)):
        tokens = integers("embedding/tokens", 0, rows, batch, length)
        if rows == 50:
            tokens = tokens % 4  # many repeats
        golden.add_with_gradients(
            f"{rows}x{columns} {batch}x{length}",
            lambda table, positions, tokens: F.embedding(tokens, table) + positions,
            {"table": normal("embedding/table", rows, columns), "positions": normal("embedding/positions", length, columns)},
            {"tokens": tokens})


def update(golden):
    """Several steps of the optimizers on two parameter groups; `scale` multiplies the gradients (clipping, lanes)."""
    n, steps = 301, 5
    settings = {
        "sgd": {},
        "sgd momentum": {"momentum": 0.9},
        "sgd dampening": {"momentum": 0.9, "dampening": 0.25},
        "sgd nesterov": {"momentum": 0.9, "nesterov": True},
        "adamw": {"betas": (0.9, 0.999), "eps": 1e-8},
        "adamw betas": {"betas": (0.8, 0.95), "eps": 1e-4},
    }
    rates = [0.1, 0.05, 0.025, 0.0125, 0.1]
    for name, options in settings.items():
        scale = 0.5
        w = normal("update/w", n)
        gradients = normal("update/g", steps, n)
        a, b = w[:200].clone().requires_grad_(), w[200:].clone().requires_grad_()
        groups = [{"params": [a], "weight_decay": 0.125}, {"params": [b], "weight_decay": 0.0}]
        kind = torch.optim.SGD if name.startswith("sgd") else torch.optim.AdamW
        optimizer = kind(groups, lr=rates[0], **options)
        results = []
        for step in range(steps):
            for group, factor in zip(optimizer.param_groups, (1.0, 2.0)):
                group["lr"] = rates[step] * factor
            a.grad, b.grad = gradients[step, :200] * scale, gradients[step, 200:] * scale
            optimizer.step()
            results.append(torch.cat([a, b]).detach().clone())
        flat = {f"option {k}": v for k, v in options.items() if k != "betas"}
        if "betas" in options:
            flat["option beta1"], flat["option beta2"] = options["betas"]
        golden.add(name, {"w": w, "gradients": gradients, "rates": torch.tensor(rates), "results": torch.stack(results)},
                   kind=name.split()[0], split=200, scale=scale, decay=0.125, **{k.replace("option ", ""): v for k, v in flat.items()})


FILES = {f.__name__: f for f in (unary, binary, reduce, softmax, norm, cross_entropy, embedding, update)}
