"""GPT-2 as published, trained for 20 AdamW steps in float64: weights, batches and the loss of every step."""

import math

import torch
import torch.nn.functional as F

from common import integers, normal

LAYERS, WIDTH, HEADS, LENGTH, VOCABULARY, BATCH, STEPS = 2, 24, 3, 17, 61, 4, 20


def initial_weights():
    weights = {"wte.weight": normal("wte", VOCABULARY, WIDTH, deviation=0.02), "wpe.weight": normal("wpe", LENGTH, WIDTH, deviation=0.01)}
    for i in range(LAYERS):
        h = f"h.{i}"
        for norm in ("ln_1", "ln_2"):
            weights[f"{h}.{norm}.weight"] = normal(f"{h}{norm}w", WIDTH, deviation=0.1, mean=1.0)
            weights[f"{h}.{norm}.bias"] = normal(f"{h}{norm}b", WIDTH, deviation=0.1)
        for layer, (out, inner) in {"attn.c_attn": (3 * WIDTH, WIDTH), "attn.c_proj": (WIDTH, WIDTH), "mlp.c_fc": (4 * WIDTH, WIDTH),
                                    "mlp.c_proj": (WIDTH, 4 * WIDTH)}.items():
            weights[f"{h}.{layer}.weight"] = normal(f"{h}{layer}w", out, inner, deviation=0.1)
            weights[f"{h}.{layer}.bias"] = normal(f"{h}{layer}b", out, deviation=0.05)
    weights["ln_f.weight"] = normal("lnfw", WIDTH, deviation=0.1, mean=1.0)
    weights["ln_f.bias"] = normal("lnfb", WIDTH, deviation=0.1)
    return weights


def forward(w, tokens):
    batch, length = tokens.shape
    x = w["wte.weight"][tokens] + w["wpe.weight"][:length]
    mask = torch.full((length, length), -math.inf).triu(1)
    for i in range(LAYERS):
        def layer(name, x):
            return F.linear(x, w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"])

        def norm(name, x):
            return F.layer_norm(x, (WIDTH,), w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"])

        q, k, v = layer("attn.c_attn", norm("ln_1", x)).view(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + mask
        attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + layer("attn.c_proj", attended)
        x = x + layer("mlp.c_proj", F.gelu(layer("mlp.c_fc", norm("ln_2", x)), approximate="tanh"))
    x = F.layer_norm(x, (WIDTH,), w["ln_f.weight"], w["ln_f.bias"])
    return x @ w["wte.weight"].T


def make(golden):
    start = initial_weights()
    tokens = integers("tokens", 0, VOCABULARY, STEPS, BATCH, LENGTH + 1)
    w = {k: v.clone().requires_grad_() for k, v in start.items()}
    optimizer = torch.optim.AdamW([{"params": [p for p in w.values() if p.dim() == 2], "weight_decay": 0.1},
                                   {"params": [p for p in w.values() if p.dim() == 1], "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for step in range(STEPS):
        logits = forward(w, tokens[step, :, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[step, :, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(w.values()), 1.0))
        if step == 0:
            logits_0 = logits
            gradients = {f"gradient.{k}": v.grad / min(1.0, 1.0 / norms[0].item()) for k, v in w.items()}
        optimizer.step()
        losses.append(loss)
    golden.add("gpt", {**start, "tokens": tokens, "logits": logits_0, "losses": torch.stack(losses), "norms": torch.stack(norms),
                       **gradients, **{f"final.{k}": v for k, v in w.items()}},
               layers=LAYERS, width=WIDTH, heads=HEADS, length=LENGTH, vocabulary=VOCABULARY, batch=BATCH, steps=STEPS)


FILES = {"gpt": make}
