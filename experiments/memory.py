"""Lesson 46: what fills the memory of a training step?"""

from dataclasses import replace

import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, INK, ORANGE, panels
from support.plan import step_memory
from train_gpt2 import Settings

NAMES = "weights, gradients, moments", "bfloat16 copies, head's gradient", "kept", "logits"
LAYER = {  # bytes a token and channel
    "stream, at ln_1": 4,
    "after ln_1": 2,
    "q, k, v": 6,
    "attention's result": 2,
    "stream, at ln_2": 4,
    "after ln_2": 2,
    "before GELU": 8,
    "after GELU": 8,
}


def parts(B: int) -> list[float]:
    """GB, in the order of NAMES."""
    fixed, copies, kept, logits, head = step_memory(
        replace(Settings(), B=B), torch.bfloat16
    ).values()
    return [size / 1e9 for size in (fixed, copies + head, kept, logits)]


def draw(quick: bool) -> Figure:
    figure, (left, right) = panels(2, height=3.3)
    sizes = 8, 16, 32, 64
    columns = list(zip(*(parts(B) for B in sizes)))
    bottom = [0.0] * len(sizes)
    for name, column, colour in zip(NAMES, columns, (GREEN, INK, BLUE, ORANGE)):
        left.bar(range(len(sizes)), column, 0.6, bottom, color=colour, label=name)
        bottom = [b + c for b, c in zip(bottom, column)]
        print(f"{name:<34}", *(f"{size:6.2f}" for size in column))
    print(f"{'all, GB':<34}", *(f"{size:6.2f}" for size in bottom))
    for i, total in enumerate(bottom):
        left.text(i, total + 0.4, f"{total:.1f}", ha="center", color=INK)
    left.set(xlabel="B, rows of 1,024 tokens", ylabel="GB", ylim=(0, 42), axisbelow=True)
    left.set_xticks(range(len(sizes)), sizes)
    left.legend(loc="upper left", fontsize=9)
    left.grid(False, axis="x")
    right.barh(list(LAYER), list(LAYER.values()), 0.65, color=BLUE)
    right.invert_yaxis()
    right.set(title=f"kept in a layer: {sum(LAYER.values())} bytes", axisbelow=True)
    right.set_xlabel("bytes for each token and channel")
    right.grid(False, axis="y")
    return figure
