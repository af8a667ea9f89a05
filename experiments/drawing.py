"""How all figures look: one style, and colours that follow the page's light or dark.

An experiment draws with matplotlib in the colours below; in the SVG they become names, which the
book's style sheet defines. The SVG alone, as a code host shows it, brings them along.
"""

import io
import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# name: (light, dark); book/book.css has the same
COLOURS = {
    "ink": ("#1d2225", "#d9dee2"),
    "soft": ("#5b656b", "#97a2aa"),
    "grid": ("#d9dcd6", "#343b41"),
    "paper": ("#fdfdfb", "#15181b"),
    "blue": ("#2368ad", "#6caef0"),
    "orange": ("#c4570c", "#f0a05c"),
    "green": ("#2f7d3b", "#7bc987"),
    "red": ("#b3261e", "#f28b82"),
    "purple": ("#7a4aa8", "#c39bea"),
}
INK, SOFT, GRID, PAPER, BLUE, ORANGE, GREEN, RED, PURPLE = (c for c, _ in COLOURS.values())
PHONE = 5.0  # inches: so narrow a figure has readable letters on a phone, too
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": matplotlib.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, RED]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",  # text stays text: small, and in the page's font
    "svg.hashsalt": "book",  # the same figure is the same file
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def panels(
    count: int = 1, height: float = 3.2, rows: int = 1, width: float | None = None, **options
) -> tuple[Figure, list[Axes]]:
    """A figure with so many axes side by side in each row.

    Several are as wide as the page's text, and lie below each other on a phone. One alone is narrow
    enough to be read there as it is, unless it is given more `width` (inches).
    """
    matplotlib.rcParams.update(STYLE)
    width = width or (PHONE if count == rows == 1 else 7.2)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, count, squeeze=False, **options).flat)


def below_each_other(figure: Figure, text: str) -> str:
    """The SVG `text` with what book.css needs to put the panels below each other on a phone."""
    axes, (width, height) = figure.axes, figure.get_size_inches()
    if len(axes) < 2:
        return text
    inches = figure.dpi_scale_trans.inverted()
    boxes = [ax.get_tightbbox().transformed(inches).padded(0.04) for ax in axes]
    widest, down = max(box.width for box in boxes), 0.0
    for number, box in enumerate(boxes, start=1):
        x, y = 72 * -box.x0, 72 * (down - (height - box.y1))
        moved = f'<g id="axes_{number}" style="--x: {x:.1f}px; --y: {y:.1f}px">'
        text = text.replace(f'<g id="axes_{number}">', moved)
        down += box.height
    scale, room = width / widest, (down - height) / widest
    return text.replace("<svg ", f'<svg style="--scale: {scale:.1%}; --room: {room:.1%}" ', 1)


def svg(figure: Figure) -> str:
    """The figure as an SVG whose colours have names."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = below_each_other(figure, buffer.getvalue())
    text = re.sub(r"(font: [^\"]*?)'[^\"]*sans-serif", r"\1system-ui, sans-serif", text)
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    names = [" ".join(f"--{n}: {c[i]};" for n, c in COLOURS.items()) for i in (0, 1)]
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {names[1]} }} }}"
    style = f"<style>:root {{ {names[0]} }} {dark}</style>"
    return re.sub(r"(<svg[^>]*>)", rf"\1\n {style}", text, count=1)
