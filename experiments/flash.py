"""Lesson 16: which tiles does flash attention visit, and how much has to be kept?"""

import math

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn import functional as F

from experiments.drawing import BLUE, GRID, INK, ORANGE, SOFT, panels

NH, HS, TILE = 12, 64, 128  # GPT-2's heads, their width; rows and columns of a tile


def four_lines(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    att = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
    future = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).triu(1)
    return F.softmax(att.masked_fill(future, float("-inf")), dim=-1) @ v


def one_line(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def kept(attend, T: int) -> float:
    """MB that the forward pass of one row of 12 heads keeps for the backward pass, in fp32."""
    q, k, v = (torch.randn(1, NH, T, HS, requires_grad=True) for _ in range(3))
    sizes = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        attend(q, k, v)
    return sum(sizes.values()) / 1e6


def draw_tiles(axes, count: int = 1024 // TILE) -> None:
    kinds = {"whole": BLUE, "half masked": ORANGE, "never computed": GRID}
    for row in range(count):
        for column in range(count):
            kind = list(kinds.values())[0 if column < row else 1 if column == row else 2]
            box = (column * TILE, row * TILE)
            axes.add_patch(Rectangle(box, TILE, TILE, color=kind, alpha=0.8, linewidth=0))
    axes.grid(False)
    for edge in range(0, count + 1):
        axes.plot([0, 1024], [edge * TILE] * 2, color=SOFT, linewidth=0.5)
        axes.plot([edge * TILE] * 2, [0, 1024], color=SOFT, linewidth=0.5)
    y = 6.5 * TILE
    axes.annotate(
        "", (6.8 * TILE, y), (20, y), arrowprops=dict(arrowstyle="->", linewidth=2, color=INK)
    )
    axes.set(xlim=(0, 1024), ylim=(1024, 0), aspect="equal", xlabel="keys", ylabel="queries")
    axes.set(xticks=range(0, 1025, 256), yticks=range(0, 1025, 256), title="one head, T = 1024")
    handles = [Rectangle((0, 0), 1, 1, color=c, alpha=0.8) for c in kinds.values()]
    axes.legend(handles, kinds, loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=8.5)


def draw(quick: bool) -> Figure:
    figure, (tiles, lines) = panels(2, height=4.0)
    draw_tiles(tiles)
    lengths = [128, 256] if quick else [128, 256, 512, 1024, 2048]
    for attend, name in ((four_lines, "four lines"), (one_line, "flash attention")):
        found = [kept(attend, T) for T in lengths]
        lines.plot(lengths, found, "o-", label=name)
        print(f"{name:<16}" + "".join(f"  T={t}: {mb:.1f} MB" for t, mb in zip(lengths, found)))
        for t, mb in list(zip(lengths, found))[-2:]:
            lines.annotate(f"{mb:.0f}", (t, mb), (-3, 6), textcoords="offset points", ha="right")
    lines.set(xscale="log", yscale="log", xlabel="T", ylabel="MB kept for the backward pass")
    lines.set_xticks(lengths, [str(t) for t in lengths])
    lines.minorticks_off()
    lines.legend(loc="upper left")
    lines.set(title="12 heads of one row, fp32", ylim=(0.5, 2000))
    return figure
