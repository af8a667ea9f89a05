"""Lesson 09: what is learnt first, and what is each part of it worth?"""

import math

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.drawing import SOFT, panels
from experiments.small import small_model, text

VOCABULARY = 50257
LOOKS = (0, 1, 2, 3, 4, 6, 8, 10, 14, 20, 28, 40, 56, 80, 110, 150, 200, 300)


def measure(quick: bool) -> tuple[dict[str, float], list[float], list[float]]:
    """The three levels; at each of LOOKS the loss, and the share of what never occurs."""
    loader, (x, y) = text(B=4), text(B=32, split="val").next_batch()
    tokens = np.concatenate(loader.shards)
    counts = np.bincount(tokens, minlength=VOCABULARY)
    p = counts[counts > 0] / len(tokens)
    levels = {
        f"ln {VOCABULARY:,} = ": math.log(VOCABULARY),
        f"ln {len(p):,} = ": math.log(len(p)),
        "entropy of the frequencies = ": float(-(p * np.log(p)).sum()),
    }
    print(*(f"{name}{level:.2f}" for name, level in levels.items()), sep="\n")

    model, absent = small_model(vocab_size=VOCABULARY), torch.from_numpy(counts == 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    looks = LOOKS[:3] if quick else LOOKS
    losses, shares = [], []
    for step in range(looks[-1] + 1):
        if step in looks:
            with torch.no_grad():
                losses.append(model(x, y)[1].item())
                shares.append(model(x[:4])[0].softmax(-1)[..., absent].sum(-1).mean().item())
            print(f"step {step:3d}  loss {losses[-1]:5.2f}  on absent tokens {shares[-1]:7.2%}")
        _, loss = model(*loader.next_batch())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return levels, losses, shares


def draw(quick: bool) -> Figure:
    levels, losses, shares = measure(quick)
    figure, (left, right) = panels(2)
    looks = LOOKS[: len(losses)]
    left.plot(looks, losses, "o-", markersize=3)
    for (name, level), offset in zip(levels.items(), (0.12, 0.12, -0.42), strict=True):
        left.axhline(level, color=SOFT, linewidth=1, linestyle=":")
        left.text(400, level + offset, f"{name}{level:.2f}", ha="right", color=SOFT, fontsize=9)
    left.set(xlabel="updates", ylabel="loss on unseen text (nats)", ylim=(5, 11.5))
    right.plot(looks, [100 * share for share in shares], "o-", markersize=3)
    right.set(xlabel="updates", ylabel="% on tokens that never occur", ylim=(0, 100))
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-0.1, 420)
        axes.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.minorticks_off()
    return figure
