"""Lesson 10: one matrix for reading and predicting, or two: which learns faster at first?"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from experiments.drawing import BLUE, ORANGE, panels
from experiments.small import small_model, text

STEPS, EVERY, SEEDS = 150, 15, 2


def train(is_tied: bool, seed: int, steps: int, vocabulary: np.ndarray) -> tuple[int, list[float]]:
    """Parameters, and losses on unseen text. Both begin with the same numbers."""
    model = small_model(seed, vocab_size=len(vocabulary))
    if not is_tied:
        model.transformer.wte.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    loader, unseen = text(B=4), text(B=16, split="val").next_batch()
    ids = torch.zeros(50257, dtype=torch.long)
    ids[torch.from_numpy(vocabulary)] = torch.arange(len(vocabulary))
    x, y = (ids[t] for t in unseen)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    found = []
    for step in range(steps + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                found.append(F.cross_entropy(model(x)[0].flatten(0, 1), y.flatten()).item())
        inputs, targets = (ids[t] for t in loader.next_batch())
        F.cross_entropy(model(inputs)[0].flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return sum(p.numel() for p in model.parameters()), found


def draw(quick: bool) -> Figure:
    steps, seeds = (EVERY, 1) if quick else (STEPS, SEEDS)
    shards = [text(B=4, split=split).shards[0] for split in ("train", "val")]
    vocabulary = np.unique(np.concatenate(shards).astype(np.int64))
    figure, (axes,) = panels(height=2.8)
    for seed in range(seeds):
        for name, is_tied, colour in (("tied", True, BLUE), ("two matrices", False, ORANGE)):
            count, losses = train(is_tied, seed, steps, vocabulary)
            x = range(0, steps + 1, EVERY)
            axes.plot(x, losses, color=colour, label=None if seed else name)
            print(f"{name:<12} seed {seed} {count:,}: {' '.join(f'{v:.2f}' for v in losses)}")
    axes.set(xlabel="updates", ylabel="loss on unseen text (nats)", ylim=(6.3, 7.2))
    axes.legend()
    return figure
