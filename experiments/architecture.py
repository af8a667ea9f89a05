"""Lesson 01: what is left of the Transformer of 2017, and where did the norms go?"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from experiments.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SOFT, panels

COLOURS = {"norm": PURPLE, "attention": BLUE, "cross-\nattention": BLUE, "MLP": GREEN, "+": INK}


def box(ax: Axes, x: float, y: float, name: str, width: float = 1.7) -> tuple[float, float]:
    colour, height = COLOURS.get(name, ORANGE), 0.42 + 0.34 * name.count("\n")
    style = "round,pad=0,rounding_size=0.12"
    corner = (x - width / 2, y - height / 2)
    patch = FancyBboxPatch(corner, width, height, boxstyle=style, fill=False, ec=colour, lw=1.4)
    ax.add_patch(patch)
    ax.text(x, y - 0.02, name, ha="center", va="center", fontsize=8.5, linespacing=1)
    return y - height / 2, y + height / 2


def arrow(ax: Axes, *points: tuple[float, float]) -> None:
    ax.plot(*zip(*points[:-1], strict=True), color=SOFT, lw=1.1)
    style = {"arrowstyle": "-|>", "color": SOFT, "shrinkA": 0, "shrinkB": 0, "lw": 1.1}
    ax.annotate("", points[-1], points[-2], arrowprops=style)


def column(ax: Axes, x: float, title: str, parts: list[str], pre: bool, ends: list[str]) -> None:
    """From the bottom up: the stream at x, with what each part adds at its right."""
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
    for name in ends:
        bottom, above = box(ax, x, y + 0.25, name)
        arrow(ax, (x, top), (x, bottom))
        top, y = above, y + 0.7
    ax.text(x + 0.6, -0.35, title, ha="center", fontsize=10)


def draw(quick: bool) -> Figure:
    figure, (ax,) = panels(height=5.6)
    column(ax, 0.9, "encoder (2017)", ["attention", "MLP"], False, [])
    decoder = ["attention", "cross-\nattention", "MLP"]
    column(ax, 4.7, "decoder (2017)", decoder, False, ["head"])
    column(ax, 9.3, "GPT-2", ["attention", "MLP"], True, ["norm", "head"])
    arrow(ax, (0.9, 5.96), (0.9, 6.6), (3.6, 6.6), (3.6, 4.62), (5.2, 4.62))
    for corners in (((0.0, 3.2), (0.2, 6.3)), ((5.1, 7.05), (4.2, 5.25))):
        (x0, x1), (y0, y1) = corners
        ax.plot([x0, x1], [y0, y1], color=RED, lw=2.2)
        ax.plot([x0, x1], [y1, y0], color=RED, lw=2.2)
    ax.text(8.6, 3.0, "× 12", ha="center", color=SOFT)
    ax.set(xlim=(-0.3, 11.8), ylim=(-0.6, 10.2))
    ax.axis("off")
    return figure
