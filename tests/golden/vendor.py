"""Golden values of products, convolution, pooling, batch norm and attention. Images are stored NHWC, filters OHWI."""

import torch
import torch.nn.functional as F

from common import normal

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
}


def matmul(golden):
    for batch, m, n, k in ((1, 1, 1, 1), (1, 3, 7, 5), (1, 2, 1, 129), (1, 33, 17, 65), (1, 65, 40, 33), (3, 5, 9, 7), (2, 1, 33, 3)):
        def function(a, b, bias):
            y = a @ b
            return {"y": y, "biased": y + bias, **{name: op(y + bias) for name, op in ACTIVATIONS.items()}}
        a, b, bias = normal("matmul/a", batch, m, k), normal("matmul/b", batch, k, n), normal("matmul/bias", n)
        outputs = function(a, b, bias)
        dy = normal("matmul/dy", batch, m, n)
        golden.add(f"{batch} {m}x{n}x{k}", {"a": a, "b": b, "bias": bias, **outputs, "dy": dy, "da": dy @ b.mT, "db": a.mT @ dy},
                   batch=batch, m=m, n=n, k=k)


def convolution(golden):
    #  batch, height, width, in, out, kernel height, width, stride, padding, dilation, groups
    shapes = [
        (2, 7, 7, 3, 5, 3, 3, 1, 1, 1, 1),
        (1, 9, 5, 1, 33, 3, 3, 2, 1, 1, 1),
        (2, 8, 8, 6, 4, 5, 5, 1, 2, 1, 2),
        (1, 11, 13, 8, 8, 3, 3, 1, 2, 2, 8),
        (2, 5, 5, 16, 32, 1, 1, 2, 0, 1, 1),
        (1, 12, 10, 17, 7, 3, 1, 1, 0, 1, 1),
        (2, 9, 9, 32, 16, 3, 3, 1, 1, 1, 1),
        (1, 10, 10, 4, 6, 3, 2, 3, 2, 2, 2),
        (1, 3, 3, 33, 65, 3, 3, 1, 1, 1, 1),
        (1, 7, 8, 18, 9, 3, 3, 2, 1, 1, 3),
        (3, 1, 1, 5, 7, 1, 1, 1, 0, 1, 1),
    ]
    for shape in shapes:
        batch, height, width, channels, out, kh, kw, stride, padding, dilation, groups = shape

        def function(x, w, bias):
            y = F.conv2d(x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2), bias, stride, padding, dilation, groups)
            return y.permute(0, 2, 3, 1)
        names = "batch height width in out kernel_height kernel_width stride padding dilation groups".split()
        golden.add_with_gradients(
            " ".join(map(str, shape)), function,
            {"x": normal("convolution/x", batch, height, width, channels),
             "w": normal("convolution/w", out, kh, kw, channels // groups), "bias": normal("convolution/bias", out)},
            **dict(zip(names, shape)))


def pooling(golden):
    #  batch, height, width, channels, window, stride, padding
    shapes = [(2, 7, 5, 3, 2, 2, 0), (1, 9, 9, 33, 3, 2, 1), (1, 8, 8, 5, 3, 1, 1), (2, 5, 5, 1, 5, 5, 0), (1, 6, 7, 16, 3, 4, 2),
              (1, 4, 4, 65, 1, 1, 0), (1, 15, 16, 2, 15, 1, 7)]
    for shape in shapes:
        batch, height, width, channels, window, stride, padding = shape
        names = "batch height width channels window stride padding".split()

        def largest(x):
            return F.max_pool2d(x.permute(0, 3, 1, 2), window, stride, padding).permute(0, 2, 3, 1)

        def average(x):
            return F.avg_pool2d(x.permute(0, 3, 1, 2), window, stride, padding, count_include_pad=False).permute(0, 2, 3, 1)
        for kind, function in (("max", largest), ("average", average)):
            if 2 * padding > window:
                continue
            golden.add_with_gradients(f"{kind} {' '.join(map(str, shape))}", function,
                                      {"x": normal(f"pooling/{kind}", batch, height, width, channels)}, kind=kind,
                                      **dict(zip(names, shape)))


def batch_norm(golden):
    for rows, channels in ((4, 1), (3, 5), (33, 7), (129, 33), (40, 65), (300, 3)):
        for relu in (False, True):
            def function(x, w, b):
                mean, variance = x.mean(0), x.var(0, unbiased=False)
                y = F.batch_norm(x, None, None, w, b, training=True, eps=1e-3)
                given = F.batch_norm(x, torch.full_like(mean, 0.25), torch.full_like(mean, 2.0), w, b, training=False, eps=1e-3)
                return {"y": F.relu(y) if relu else y, "mean": mean, "variance": variance,
                        "inference": F.relu(given) if relu else given}
            golden.add_with_gradients(f"{rows}x{channels}{' relu' if relu else ''}", function,
                                      {"x": normal("batch_norm/x", rows, channels, mean=0.5, deviation=2),
                                       "w": normal("batch_norm/w", channels), "b": normal("batch_norm/b", channels)},
                                      relu=relu, epsilon=1e-3)


def attention(golden):
    shapes = [(1, 1, 1, 1), (2, 3, 1, 5), (1, 7, 3, 1), (1, 33, 2, 32), (1, 65, 1, 40), (1, 49, 1, 64), (1, 19, 2, 80),
              (2, 261, 1, 5)]
    for batch, length, heads, size in shapes:
        for causal in (True, False):
            def function(qkv):
                q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (batch, heads, length, size)
                scores = q @ k.mT / size**0.5
                if causal:
                    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
                y = (scores.softmax(-1) @ v).transpose(1, 2)
                check = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
                assert torch.allclose(y, check, atol=1e-12)
                return {"y": y, "log_sum": torch.logsumexp(scores, -1)}
            golden.add_with_gradients(f"{batch}x{length}x{heads}x{size} {'causal' if causal else 'full'}", function,
                                      {"qkv": normal("attention/qkv", batch, length, 3, heads, size)}, batch=batch, length=length,
                                      heads=heads, size=size, causal=causal)


FILES = {f.__name__: f for f in (matmul, convolution, pooling, batch_norm, attention)}
