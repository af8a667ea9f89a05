"""Lesson 38: when does bfloat16 stop to push a token up that is nearly certain?"""

import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, ORANGE, panels


def draw(quick: bool) -> Figure:
    p = torch.linspace(0.98, 1.0, 21 if quick else 401)
    ways = {
        "subtracted in fp32, then rounded": (1 - p).bfloat16(),
        "rounded first: all in bfloat16": 1 - p.bfloat16(),
    }
    figure, (axes,) = panels(height=2.8)
    for (name, push), colour in zip(ways.items(), (BLUE, ORANGE), strict=True):
        axes.plot(p, push.float(), label=name, color=colour)
        print(f"{name}: {len(push.unique())} values, 0 from p = {p[push == 0].min():.4f} on")
    axes.set(xlabel="p, the probability of the token that came", ylabel="push, 1 - p")
    axes.set_xticks([0.98, 0.985, 0.99, 0.995, 1])
    axes.legend(loc="lower left")
    return figure
