"""Lesson 24: when are the gradients ready, and what can be sent while backward runs?"""

from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, PAPER, panels

BLOCKS, PART = 12, 1.0  # the backward pass of one block takes one unit of time
BUCKETS, SEND = 4, 1.5  # three blocks fill a bucket; sending it takes less than computing it
WORDS = dict(ha="center", va="center", color=PAPER, size=9)


def draw(quick: bool) -> Figure:
    figure, (axes,) = panels(height=2.6)
    each, ready, end = BLOCKS // BUCKETS, [], {}
    for i in range(BLOCKS):
        left = i * PART
        axes.broken_barh([(left + 0.03, PART - 0.06)], (2.6, 0.8), color=BLUE)
        axes.text(left + PART / 2, 3.0, str(BLOCKS - i), **WORDS)
        if (i + 1) % each == 0:
            ready.append(left + PART)
    for row, name, colour in ((1.4, "overlapped", GREEN), (0.2, "afterwards", ORANGE)):
        free = 0.0 if name == "overlapped" else BLOCKS * PART
        for number, time in enumerate(ready):
            free = max(free, time)
            axes.broken_barh([(free + 0.03, SEND - 0.06)], (row, 0.8), color=colour)
            axes.text(free + SEND / 2, row + 0.4, str(number + 1), **WORDS)
            free += SEND
        end[name] = free
        print(f"all-reduce {name}: the last bucket has arrived at {free:.1f}, of {BLOCKS} blocks")
    names = ["backward,\nblock", "sent meanwhile,\nbucket", "sent afterwards,\nbucket"]
    axes.set_yticks([3.0, 1.8, 0.6], labels=names)
    axes.set_xticks(range(0, 19, 3))
    axes.set(xlabel="time, in the backward passes of one block", ylim=(0, 3.6), xlim=(0, 18.5))
    axes.grid(False)
    return figure
