"""Lesson 08: what does each probability of the right token cost?"""

import math

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import ORANGE, panels

POINTS = {"1 in 50257": 1 / 50257, "1 in 100": 0.01, "1 in 2": 0.5, "certain": 1.0}


def draw(quick: bool) -> Figure:
    figure, (axes,) = panels(height=2.8)
    p = np.logspace(-5, 0, 200)
    axes.plot(p, -np.log(p))
    for name, point in POINTS.items():
        cost = math.log(1 / point)
        print(f"{name:<12} p = {point:<10.3g} costs {cost:.2f} nats")
        axes.plot(point, cost, "o", color=ORANGE)
        axes.annotate(f"{name}: {cost:.2f}", (point, cost), (7, 5), textcoords="offset points")
    axes.set(
        xscale="log",
        xlabel="probability given to the token that came",
        ylabel="cost (nats)",
        xlim=(8e-6, 8),
        ylim=(-0.4, 12.5),
    )
    return figure
