"""Lesson 08: what does each probability of the right token cost?"""

import math

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import ORANGE, panels

POINTS = {"1 in 50,257": 1 / 50257, "1 in 100": 0.01, "1 in 2": 0.5, "certain": 1.0}
BESIDE = {"1 in 2": ((10, 16), "center"), "certain": ((-8, -5), "right")}  # points, of the text


def draw(quick: bool) -> Figure:
    figure, (axes,) = panels(height=2.8)
    p = np.logspace(-5, 0, 200)
    axes.plot(p, -np.log(p))
    for name, point in POINTS.items():
        cost = math.log(1 / point)
        print(f"{name:<12} p = {point:<10.3g} costs {cost:.2f} nats")
        axes.plot(point, cost, "o", color=ORANGE, clip_on=False)
        place, side = BESIDE.get(name, ((7, 5), "left"))
        text = f"{name}: {cost:.2f}"
        axes.annotate(text, (point, cost), place, textcoords="offset points", ha=side)
    axes.set(xscale="log", xlabel="probability given to the token that came", ylabel="cost (nats)")
    axes.set(xlim=(8e-6, 1), ylim=(-1, 12.5))
    return figure
