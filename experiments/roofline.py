"""Lesson 15: which parts of a training step can keep a processor busy?"""

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, PURPLE, SOFT, panels

N, C, V, HEADS, T, HS, L = 16 * 1024, 768, 50304, 16 * 12, 1024, 64, 12
WEIGHTS = 124_475_904

# Operations and bytes a second. NVIDIA's data sheets: A100 80GB SXM, H100 SXM, bfloat16 dense.
# Ryzen 7 7840U: 8 cores x 3.3 GHz x 32 fp32 operations a cycle, two channels of DDR5-5600.
MACHINES = {
    "H100": (989e12, 3.35e12, GREEN),
    "A100": (312e12, 2.039e12, BLUE),
    "laptop CPU, fp32": (0.845e12, 0.0896e12, PURPLE),
}


def matmul(rows: int, inside: int, columns: int) -> tuple[float, float]:
    """FLOPs, and bytes in bfloat16, of (rows, inside) @ (inside, columns)."""
    numbers = rows * inside + inside * columns + rows * columns
    return 2 * rows * inside * columns, 2 * numbers


def parts() -> dict[str, tuple[float, float, int]]:
    """FLOPs, bytes, and how often in the forward pass of 16 rows of 1024 tokens."""
    attention = HEADS * 2 * 2 * T * T * HS
    edges = HEADS * 4 * T * HS * 2
    return {
        "residual addition": (N * C, 3 * 2 * N * C, 2 * L),
        "GELU, 8 operations": (9 * 4 * N * C, 18 * 2 * 4 * N * C, L),
        "AdamW (fp32)": (12 * WEIGHTS, 7 * 4 * WEIGHTS, 1),
        "LayerNorm": (7 * N * C, 2 * 2 * N * C, 2 * L + 1),
        "GELU, fused": (9 * 4 * N * C, 2 * 2 * 4 * N * C, L),
        "attention, four lines": (attention, edges + HEADS * 8 * T * T * 2, L),
        "flash attention": (attention, edges, L),
        "MLP, first matmul": (*matmul(N, C, 4 * C), L),
        "head": (*matmul(N, C, V), 1),
    }


def draw(quick: bool) -> Figure:
    figure, (axes,) = panels(height=4.6)
    x = np.logspace(-1, 3.5, 60)
    for name, (peak, memory, colour) in MACHINES.items():
        axes.plot(x, np.minimum(peak, memory * x) / 1e12, color=colour, label=name)
        corner = peak / memory
        axes.plot(corner, peak / 1e12, "o", color=colour, markersize=5)
        shift = (6, -13) if name == "A100" else (4, 5)
        text = f"{name}: {corner:.0f}"
        axes.annotate(text, (corner, peak / 1e12), shift, textcoords="offset points")
        print(
            f"{name:<18} {peak / 1e12:8.3f} TFLOP/s {memory / 1e9:8.1f} GB/s, {corner:.0f} a byte"
        )
    peak, memory, _ = MACHINES["A100"]
    for name, (flops, moved, times) in parts().items():
        intensity = flops / moved
        reached = min(peak, memory * intensity) / 1e12
        axes.plot([intensity] * 2, [1e-5, reached], color=SOFT, linewidth=0.7, linestyle=":")
        axes.plot(intensity, reached, "o", color=ORANGE, markersize=6)
        beside = ("left", 1.04) if name == "head" else ("right", 0.97)
        y = 3e-3 if name.startswith("MLP") else 1.3e-5  # three labels in a narrow place
        axes.text(intensity * beside[1], y, name, rotation=90, fontsize=8.5, ha=beside[0])
        ms = times * max(flops / peak, moved / memory) * 1000
        print(
            f"{name:<22} {flops / 1e9:8.1f} GFLOP {moved / 1e6:7.0f} MB "
            f"{intensity:6.2f} a byte, {times:2} times: {ms:6.2f} ms on an A100"
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.1, 3000),
        ylim=(1e-5, 5000),
        xlabel="FLOPs for each byte moved",
        ylabel="TFLOP/s at most",
    )
    return figure
