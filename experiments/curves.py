"""Lesson 34: what is the small run's loss to be held against?"""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, PURPLE, SOFT, panels
from experiments.small import TEXT
from support.shards import load_split
from support.tokenizer import N_VOCAB

LOG = Path(TEXT).parent / "assets" / "log_small.txt"  # the run that comes with the repository
SMOOTH = 24


def unigram_loss() -> float:
    """What one pays on the last tenth, knowing only the counts of the first nine."""
    train, val = (load_split(TEXT, split)[0] for split in ("train", "val"))
    counts = np.bincount(train, minlength=N_VOCAB) + 1
    return float(-np.log(counts / counts.sum())[val].mean())


def stream_std(additions: int, scale: float, generator: torch.Generator) -> float:
    x = torch.zeros(768)
    for _ in range(additions):
        x += scale * torch.randn(768, generator=generator)
    return x.std().item()


def draw(quick: bool) -> Figure:
    curves: dict[str, dict[int, float]] = {}
    for line in LOG.read_text().splitlines():
        step, name, value = line.split()
        curves.setdefault(name, {})[int(step)] = float(value)
    train = np.array([curves["train"][step] for step in sorted(curves["train"])])
    mean = np.convolve(train, np.ones(SMOOTH) / SMOOTH, mode="valid")
    figure, (left, right) = panels(2, height=3.2)
    left.plot(np.arange(0, len(train), 4), train[::4], color=BLUE, alpha=0.3, linewidth=0.7)
    places = np.arange(0, len(mean), 4)
    left.plot(places + SMOOTH - 1, mean[::4], color=BLUE, label=f"training, mean of {SMOOTH} steps")
    left.plot(*zip(*sorted(curves["val"].items())), "o", color=ORANGE, label="validation")
    for name, level in {
        "knows nothing": math.log(N_VOCAB),
        "counts tokens": unigram_loss(),
    }.items():
        left.axhline(level, color=SOFT, linestyle=":", linewidth=1.2)
        left.text(1200, level + 0.15, f"{name}: {level:.2f}", ha="right", color=SOFT)
        print(f"{name}: {level:.2f}")
    print("validation", *(f"{step}: {loss:.2f}" for step, loss in sorted(curves["val"].items())))
    left.set(xlabel="step, of 256 tokens", ylabel="loss (nats)", ylim=(3.5, 11.8))
    left.set_xticks(sorted(curves["val"]))
    left.legend(loc="center right", bbox_to_anchor=(1, 0.72))
    generator = torch.Generator().manual_seed(1337)
    depths = [1, 2, 4, 8, 16, 24, 36, 48, 64, 80, 100]
    for name, power, colour in (("as it comes", 0.0, PURPLE), ("each times 1/√n", -0.5, GREEN)):
        stds = [stream_std(n, n**power, generator) for n in depths]
        right.plot(depths, stds, "o-", markersize=3, color=colour, label=name)
        print(f"{name}: {stds[-1]:.2f} after {depths[-1]} additions")
    right.set(xlabel="n, additions to the stream", ylabel="standard deviation", ylim=(0, 11))
    right.legend()
    return figure
