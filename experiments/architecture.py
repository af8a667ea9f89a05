"""Lesson 01: what is left of the Transformer of 2017, and where did the norms go?"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from experiments.drawing import BLUE, GREEN, INK, ORANGE, PAPER, PURPLE, RED, SOFT, panels

COLOURS = {"norm": PURPLE, "attention": BLUE, "cross-\nattention": BLUE, "MLP": GREEN, "+": INK}


def box(ax: Axes, x: float, y: float, name: str, width: float = 1.8) -> tuple[float, float]:
    colour, height = COLOURS.get(name, ORANGE), 0.42 + 0.34 * name.count("\n")
    style = "round,pad=0,rounding_size=0.12"
    corner = (x - width / 2, y - height / 2)
    patch = FancyBboxPatch(corner, width, height, boxstyle=style, fill=False, ec=colour, lw=1.4)
    ax.add_patch(patch)
    above_crosses = dict(zorder=4, bbox=dict(fc=PAPER, lw=0, pad=0.6))
    ax.text(x, y - 0.02, name, ha="center", va="center", fontsize=9, linespacing=1, **above_crosses)
    return y - height / 2, y + height / 2


def arrow(ax: Axes, *points: tuple[float, float]) -> None:
    ax.plot(*zip(*points[:-1], strict=True), color=SOFT, lw=1.1)
    style = {"arrowstyle": "-|>", "color": SOFT, "shrinkA": 0, "shrinkB": 0, "lw": 1.1}
    ax.annotate("", points[-1], points[-2], arrowprops=style)


def cross(ax: Axes, left: float, bottom: float, right: float, top: float) -> None:
    for ends in ((bottom, top), (top, bottom)):
        ax.plot((left, right), ends, color=RED, lw=2.2, zorder=3)


def column(
    ax: Axes, x: float, title: str, parts: list[str], times: int, pre: bool, ends: list[str]
) -> None:
    """From the bottom up: the stream at x, with what each part adds at its right; a bracket."""
    top = box(ax, x, 0.6, "token +\nposition")[1]
    y, right = 1.7, x + 1.35
    for name in parts:
        arrow(ax, (x, top), (x, y + (1.69 if pre else 0.84)))
        under = y + 0.45
        arrow(ax, (x, y), (right, y), (right, y + 0.25))
        if pre:
            arrow(ax, (right, box(ax, right, under, "norm")[1]), (right, y + 0.95))
            under = y + 1.15
        bottom, above = box(ax, right, under, name)
        plus = y + (1.9 if pre else 1.05)
        arrow(ax, (right, above), (right, plus), (x + 0.2, plus))
        box(ax, x, plus, "+", width=0.36)
        top = plus + 0.21
        if not pre:
            bottom, above = box(ax, x, plus + 0.65, "norm", width=1.1)
            arrow(ax, (x, top), (x, bottom))
            top = above
        y += 2.35
    low, high, edge = 1.45, top + 0.1, x + 2.45
    ax.plot([edge, edge + 0.1, edge + 0.1, edge], [low, low, high, high], color=SOFT, lw=1)
    ax.text(edge + 0.2, (low + high) / 2, f"× {times}", va="center", color=SOFT)
    for name in ends:
        bottom, above = box(ax, x, y + 0.25, name)
        arrow(ax, (x, top), (x, bottom))
        top, y = above, y + 0.7
    ax.text(x + 0.6, -0.35, title, ha="center", fontsize=10)


def draw(quick: bool) -> Figure:
    figure, (ax,) = panels(height=5.2)
    column(ax, 0.95, "encoder (2017)", ["attention", "MLP"], 6, False, [])
    decoder = ["attention", "cross-\nattention", "MLP"]
    column(ax, 5.15, "decoder (2017)", decoder, 6, False, ["head"])
    column(ax, 9.1, "GPT-2", ["attention", "MLP"], 12, True, ["norm", "head"])
    arrow(ax, (0.95, 5.96), (0.95, 6.6), (4.05, 6.6), (4.05, 4.62), (5.6, 4.62))
    cross(ax, 0.0, 0.2, 3.3, 6.3)
    cross(ax, 5.35, 3.8, 7.65, 5.2)
    ax.set(xlim=(-0.1, 12.3), ylim=(-0.5, 9.4))
    ax.axis("off")
    return figure
