"""Lesson 06: what crosses the gap between the CPU and the GPU?"""

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from experiments.drawing import BLUE, GREEN, ORANGE, SOFT, panels

OVER = {3.05: "model.to(device): all weights, once", 2.35: "x.to(device): a batch, each step"}
BACK = {1.4: ".item(): one number", 0.7: ".tolist(): the tokens drawn"}


def draw(quick: bool) -> Figure:
    figure, (ax,) = panels(height=2.6)
    for x, name, memory, colour in (
        (0, "CPU", "its memory:\nthe text,\nthe program", BLUE),
        (7.6, "GPU", "its memory:\nweights,\nactivations", GREEN),
    ):
        style = "round,pad=0,rounding_size=0.15"
        ax.add_patch(
            FancyBboxPatch((x, 0.2), 2.4, 3.5, boxstyle=style, fill=False, ec=colour, lw=1.6)
        )
        ax.text(x + 1.2, 3.25, name, ha="center", fontsize=12)
        ax.text(x + 1.2, 1.6, memory, ha="center", va="center", color=SOFT, linespacing=1.4)
    for rows, start, end in ((OVER, 2.6, 7.4), (BACK, 7.4, 2.6)):
        for y, name in rows.items():
            arrow = {"arrowstyle": "-|>", "color": ORANGE, "lw": 1.4}
            ax.annotate("", (end, y), (start, y), arrowprops=arrow)
            ax.text(5, y + 0.12, name, ha="center", fontsize=9)
    ax.set(xlim=(-0.1, 10.1), ylim=(0, 3.9))
    ax.axis("off")
    return figure
