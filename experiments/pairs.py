"""Lesson 40: how often does one pair of turns name the wrong winner? (simulated)"""

import random
import statistics

from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, SOFT, panels

RATIO, BUSY, SLOWER = 0.82, 0.3, 3.0  # the truth; a turn in three is disturbed, and takes longer


def turn(seconds: float, rng: random.Random) -> float:
    return seconds * rng.uniform(0.95, 1.05) * (SLOWER if rng.random() < BUSY else 1.0)


def draw(quick: bool) -> Figure:
    rng, tries = random.Random(0), 100 if quick else 4000
    figure, (axes,) = panels(height=2.8)
    bins = [0.2 * 1.08**i for i in range(40)]
    for pairs, colour in ((1, ORANGE), (9, BLUE), (31, GREEN)):
        medians = [
            statistics.median(turn(RATIO, rng) / turn(1.0, rng) for _ in range(pairs))
            for _ in range(tries)
        ]
        wrong = sum(median >= 1 for median in medians) / tries
        label = f"{pairs} pair{'s' * (pairs > 1)}: {wrong:.1%} wrong"
        print(label)
        weights = [100 / tries] * tries
        axes.hist(
            medians, bins, weights=weights, histtype="step", color=colour, label=label, lw=1.7
        )
    axes.axvline(1.0, color=SOFT, lw=1.0)
    axes.text(1.04, 40, "from 1 on:\nthe wrong winner", color=SOFT)
    axes.set(xscale="log", xlabel="median of (ours / theirs), logarithmic")
    axes.set(ylabel="% of measurements")
    axes.set_xticks([0.25, 0.5, 0.82, 1, 2], ["0.25", "0.5", "0.82", "1", "2"])
    axes.minorticks_off()
    axes.legend(loc="upper left", handlelength=1.2)
    return figure
