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

LABELS = {  # where not straight above the point: height, and the side that lies on the line
    "LayerNorm": (14, "right"),
    "GELU, fused": (14, "left"),
    "attention, four lines": (13, "left"),
    "flash attention": (26, "left"),
    "MLP, first matmul": (70, "left"),
    "head": (180, "left"),
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
    for name, (peak, memory, colour) in MACHINES.items():
        corner = peak / memory
        x = np.array([0.1, corner, 20000])
        axes.plot(x, np.minimum(peak, memory * x) / 1e12, color=colour)
        axes.plot(corner, peak / 1e12, "o", color=colour, markersize=5)
        text = f"{name}: {corner:.0f} FLOPs a byte"
        axes.text(19000, peak / 1e12 * 1.25, text, ha="right", color=colour, fontsize=9)
        print(
            f"{name:<18} {peak / 1e12:8.3f} TFLOP/s {memory / 1e9:8.1f} GB/s, {corner:.0f} a byte"
        )
    peak, memory, _ = MACHINES["A100"]
    for name, (flops, moved, times) in parts().items():
        intensity = flops / moved
        reached = min(peak, memory * intensity) / 1e12
        label = LABELS.get(name, (2.5 * reached, "center"))
        axes.plot([intensity] * 2, [label[0], reached], color=SOFT, linewidth=0.7, linestyle=":")
        axes.plot(intensity, reached, "o", color=ORANGE, markersize=6)
        turn, va = (0, "top") if label[0] < reached else (90, "bottom")
        axes.text(intensity, label[0], name, fontsize=9, rotation=turn, ha=label[1], va=va)
        ms = times * max(flops / peak, moved / memory) * 1000
        print(
            f"{name:<22} {flops / 1e9:8.1f} GFLOP {moved / 1e6:7.0f} MB "
            f"{intensity:6.2f} a byte, {times:2} times: {ms:6.2f} ms on an A100"
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.1, 20000),
        ylim=(5e-3, 5000),
        xlabel="FLOPs for each byte moved",
        ylabel="TFLOP/s at most",
    )
    return figure
