"""Lesson 37: who holds the lock when Python shuts down? (a drawing, not to scale)"""

from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, INK, ORANGE, PAPER, RED, panels

# row, from, to, what is done, colour; the time has no unit
WITHOUT = (
    ("main", 0, 3, "trains", BLUE),
    ("main", 3, 5.2, "prints,\nleaves", BLUE),
    ("main", 5.2, 8, "Python\nshuts down", ORANGE),
    ("gloo", 1, 3, "sums", GREEN),
    ("gloo", 3, 6.4, "waits for the lock", PAPER),
    ("gloo", 6.4, 7.8, "ended", RED),
)
WITH = (
    ("main", 0, 3, "trains", BLUE),
    ("main", 3, 4.2, "prints", BLUE),
    ("main", 4.2, 7.2, "sleeps: the\nlock is free", PAPER),
    ("main", 7.2, 10, "Python\nshuts down", ORANGE),
    ("gloo", 1, 3, "sums", GREEN),
    ("gloo", 3, 4.2, "waits", PAPER),
    ("gloo", 4.2, 6, "drops the\ntensor", GREEN),
)


def draw(quick: bool) -> Figure:
    figure, axes = panels(height=3.0)
    place = axes[0]
    rows = {
        ("without", "main"): 0,
        ("without", "gloo"): 1,
        ("with", "main"): 2.6,
        ("with", "gloo"): 3.6,
    }
    for way, boxes in (("without", WITHOUT), ("with", WITH)):
        for thread, begin, end, text, colour in boxes:
            row = rows[way, thread]
            place.barh(
                row, end - begin, left=begin, height=0.8, color=colour, edgecolor=INK, lw=0.7
            )
            ink = INK if colour == PAPER else PAPER
            place.annotate(
                text, ((begin + end) / 2, row), ha="center", va="center", color=ink, size=9
            )
        shutdown = next(begin for _, begin, _, text, _ in boxes if "shuts" in text)
        turn = boxes[-1][1]
        when = "after" if turn > shutdown else "before"
        print(f"{way} sleep: gloo's thread gets the lock {when} the shutdown begins")
        place.text(0.1, rows[way, "main"] - 0.55, f"{way} sleep")
    place.set_yticks(list(rows.values()), [thread for _, thread in rows])
    place.set(xlabel="time, not to scale", xticks=[])
    place.invert_yaxis()
    place.grid(visible=False)
    return figure
