"""All lessons: what did each do to lines, loss, milliseconds and memory?"""

from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import BLUE, ORANGE, SOFT, panels
from support.numbers import STEPS, Row, read

NUMBERS = Path(__file__).resolve().parent.parent / "book" / "numbers.csv"
FAR, AROUND = 0.1, 5  # a ratio that far from 1 is named, if the lessons around it agree


def steps(axes: Axes, rows: list[Row], name: str, **style) -> None:
    known = [(row.lesson, getattr(row, name)) for row in rows if getattr(row, name) is not None]
    axes.step(*zip(*known, strict=True), where="mid", **style)


def mark_ms(axes: Axes, rows: list[Row]) -> None:
    """The lessons that changed the milliseconds much, and for good."""
    for i, row in enumerate(rows):
        change = row.ms_ratio
        if change is None or abs(change - 1) < FAR:
            continue
        before = [r.ms for r in rows[i - AROUND : i] if r.ms is not None]
        after = [r.ms for r in rows[i : i + AROUND]]
        lasting = median(after) / median(before)
        if abs(lasting - 1) > FAR and (lasting < 1) == (change < 1):
            at = row.lesson, row.ms
            axes.plot(*at, "o", color=ORANGE)
            axes.annotate(
                f"{row.lesson}", at, (-4, -11), textcoords="offset points", ha="right", fontsize=8.5
            )
            print(f"lesson {row.lesson:02d}: milliseconds x {change:.2f}")


def draw(quick: bool) -> Figure:
    rows = read(NUMBERS)
    figure, (lines, loss, ms, memory) = panels(2, rows=2, height=5.6)
    steps(lines, rows, "lines_of_all", color=SOFT, label="with its modules")
    steps(lines, rows, "lines", color=BLUE, label="train_gpt2.py")
    steps(loss, rows, "first_loss", color=SOFT, label="first step")
    steps(loss, rows, "last_loss", color=BLUE, label=f"step {STEPS}")
    steps(ms, rows, "ms", color=BLUE)
    mark_ms(ms, rows)
    steps(memory, rows, "megabytes", color=BLUE)
    for axes, title in (
        (lines, "lines of code"),
        (loss, "training loss"),
        (ms, "milliseconds a step"),
        (memory, "peak memory of the process, MB"),
    ):
        axes.set(title=title, xlabel="lesson", xlim=(0, rows[-1].lesson + 1), ylim=(0, None))
    loss.set(ylim=(6, 12))
    for axes in (lines, loss):
        axes.legend()
    return figure
