"""Lesson 13: what does each bit less cost a matmul, and why floating point?"""

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, ORANGE, SOFT, panels


def keep(x: torch.Tensor, bits: int) -> torch.Tensor:
    """x with its mantissa rounded from 23 bits to so many."""
    drop = 23 - bits
    if not drop:
        return x
    whole = x.numpy().view(np.uint32) + np.uint32(1 << (drop - 1))
    return torch.from_numpy((whole >> drop << drop).view(np.float32))


def error(bits: int, size: int) -> float:
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ b.double()
    rounded = keep(a, bits) @ keep(b, bits)
    return ((rounded.double() - exact).norm() / exact.norm()).item()


def draw(quick: bool) -> Figure:
    figure, (errors, rugs) = panels(2, height=3.0)
    kept = list(range(2, 24))
    found = [error(bits, 64 if quick else 512) for bits in kept]
    errors.plot(kept, found, ".-")
    for bits, name in ((23, "fp32"), (10, "TF32"), (7, "bfloat16")):
        value = found[kept.index(bits)]
        print(f"{name:<9} {bits:2} bits of mantissa: relative error {value:.1e}")
        errors.plot(bits, value, "o", color=ORANGE)
        errors.annotate(
            f"{name}: {value:.1e}", (bits, value), (5, 5), textcoords="offset points", fontsize=9
        )
    errors.set(yscale="log", xlabel="bits of mantissa kept", ylabel="relative error of a matmul")
    errors.set(xlim=(1, 34), xticks=(2, 7, 10, 15, 20, 23))

    limit = 0.1  # the largest weight
    whole = torch.arange(-31, 32) * limit / 31
    parts = [m / 4 * 2**-2 for m in range(4)]  # 3 bits of exponent, 2 of mantissa
    parts += [(1 + m / 4) * 2.0 ** (e - 3) for e in range(1, 8) for m in range(4)]
    floats = torch.tensor(parts + [-x for x in parts]) * limit / max(parts)
    weights = 0.02 * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    counts, edges = np.histogram(weights, 60, (-limit, limit))
    rugs.stairs(1.1 + 0.9 * counts / counts.max(), edges, baseline=1.1, fill=True, color=SOFT)
    for y, values, colour in ((0.55, whole, BLUE), (0.0, floats, ORANGE)):
        rugs.vlines(values, y, y + 0.4, color=colour, linewidth=0.9)
    rugs.set(yticks=(0.2, 0.75, 1.5), yticklabels=("floating point", "whole numbers", "weights"))
    rugs.set(xlim=(-limit, limit), ylim=(-0.1, 2.1), xlabel="value", xticks=(-0.1, 0, 0.1))
    rugs.grid(False)
    return figure
