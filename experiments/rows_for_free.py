"""Lesson 49: how many tokens a second can a GPU draw, on paper, for how many rows at once?"""

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import BLUE, ORANGE, SOFT, panels

MATRICES = 12 * 12 * 768**2 + 50304 * 768  # numbers that a new token of the 124M model reads
A100 = 312e12, 2039e9  # FLOP/s in bfloat16, bytes/s


def tokens_a_second(rows: np.ndarray, context: int) -> np.ndarray:
    """What is slower decides: reading (weights once, each row's keys and values), or arithmetic."""
    flops, bandwidth = A100
    cache = 2 * 12 * 768 * context
    reading = 2 * (MATRICES + rows * cache) / bandwidth
    arithmetic = rows * 2 * (MATRICES + cache) / flops
    return rows / np.maximum(reading, arithmetic)


def draw(quick: bool) -> Figure:
    figure, (axes,) = panels(height=3)
    rows = np.sort([*np.geomspace(1, 4096, 60), 153])  # 153: the bend
    for context, colour in ((0, SOFT), (128, BLUE), (1024, ORANGE)):
        name = f"with {context:,} tokens to look back on" if context else "no cache to read"
        axes.plot(rows, tokens_a_second(rows, context), color=colour, label=name)
        few = tokens_a_second(np.array([1, 4, 64, 1024]), context)
        print(f"{name:<32} 1, 4, 64, 1024 rows:", *(f"{x:12,.0f}" for x in few))
    axes.set(xscale="log", yscale="log", xlabel="rows at once", ylabel="tokens a second")
    axes.set(xticks=[1, 4, 16, 64, 256, 1024, 4096])
    axes.set_xticklabels(["1", "4", "16", "64", "256", "1,024", "4,096"])
    axes.minorticks_off()
    axes.set_ylim(1500)
    axes.legend(loc="lower right")
    return figure
