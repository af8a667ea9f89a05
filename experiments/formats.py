"""Lesson 14: what do the four number formats keep, and what does that cost a matmul?"""

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.drawing import BLUE, GREEN, INK, ORANGE, panels

BITS = {"fp32": (8, 23), "TF32": (8, 10), "fp16": (5, 10), "bfloat16": (8, 7)}


def tf32(x: torch.Tensor) -> torch.Tensor:
    """x with its lowest 13 bits rounded away, as a tensor core reads it."""
    whole = x.numpy().view(np.uint32) + np.uint32(1 << 12)
    return torch.from_numpy((whole >> 13 << 13).view(np.float32))


ROUNDED = {
    "fp32": lambda x: x,
    "TF32": tf32,
    "fp16": lambda x: x.half().float(),
    "bfloat16": lambda x: x.bfloat16().float(),
}


def error(name: str, size: int, seeds: int = 5) -> float:
    """Relative error of a product whose inputs were rounded; the sums are taken in fp32."""
    found = []
    for seed in range(seeds):
        a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(seed))
        exact = a.double() @ b.double()
        rounded = (ROUNDED[name](a) @ ROUNDED[name](b)).double()
        found.append(((rounded - exact).norm() / exact.norm()).item())
    return sum(found) / len(found)


def draw(quick: bool) -> Figure:
    figure, (bits, errors) = panels(2, height=3.3, width_ratios=(5, 4))
    for row, (exponent, mantissa) in enumerate(BITS.values()):
        for i in range(1 + exponent + mantissa):
            colour = INK if i == 0 else ORANGE if i <= exponent else BLUE
            bits.add_patch(Rectangle((i, row - 0.3), 0.84, 0.6, color=colour, linewidth=0))
        bits.text(1 + exponent + mantissa + 0.5, row, f"{1 + exponent + mantissa}", va="center")
    handles = [Rectangle((0, 0), 1, 1, color=c) for c in (INK, ORANGE, BLUE)]
    names = ("sign", "exponent: the range", "mantissa: the digits")
    bits.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.02))
    bits.set(xlim=(-0.3, 34.5), ylim=(3.5, -0.5), yticks=range(4), yticklabels=BITS, xticks=[])
    bits.grid(False)
    bits.spines[["left", "bottom"]].set_visible(False)
    bits.tick_params(length=0)
    found = {name: error(name, 64 if quick else 512) for name in BITS}
    errors.plot(list(found.values()), range(4), "o", color=GREEN)
    for row, (name, value) in enumerate(found.items()):
        print(f"{name:<9} {BITS[name]} bits, relative error of a 512 x 512 product {value:.1e}")
        errors.text(value * 1.7, row, f"{value:.1e}", va="center", fontsize=9)
    errors.set(xscale="log", xlim=(1e-7, 0.1), ylim=(3.5, -0.5), yticks=range(4), yticklabels=BITS)
    errors.set(xlabel="relative error of a matmul", xticks=(1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2))
    return figure
