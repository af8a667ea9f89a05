"""Lesson 08: can it memorise one batch, and what goes wrong without zero_grad?"""

import math

import torch
from matplotlib.figure import Figure

from experiments.drawing import SOFT, panels
from experiments.small import small_model, text


def losses(steps: int, optimizer: type, rate: float, zero_grad: bool = True) -> list[float]:
    """The loss of one batch of 4 rows, step by step."""
    model, (x, y) = small_model(), text(B=4).next_batch()
    updates = optimizer(model.parameters(), lr=rate)
    found = []
    for _ in range(steps):
        _, loss = model(x, y)
        loss.backward()
        updates.step()
        if zero_grad:
            updates.zero_grad()
        found.append(loss.item())
    return found


def draw(quick: bool) -> Figure:
    steps = 3 if quick else 60
    adamw, sgd = torch.optim.AdamW, torch.optim.SGD
    curves = {
        "AdamW, rate 0.003": losses(steps, adamw, 3e-3),
        "the same without zero_grad": losses(steps, adamw, 3e-3, zero_grad=False),
        "SGD, rate 0.003": losses(steps, sgd, 3e-3),
        "SGD, rate 0.1": losses(steps, sgd, 0.1),
    }
    figure, (axes,) = panels()
    for name, curve in curves.items():
        axes.plot(curve, label=name)
        print(f"{name:<28} {curve[0]:8.3f} {curve[9 % steps]:8.3f} {curve[-1]:8.3f}")
    axes.axhline(math.log(50257), color=SOFT, linewidth=1, linestyle=":")
    axes.text(steps, math.log(50257) + 0.2, "ln 50,257 = 10.82", ha="right", color=SOFT)
    axes.set(xlabel="step", ylabel="loss of the batch (nats)", ylim=(0, 13))
    axes.legend(loc="lower left", ncols=2, columnspacing=1, handlelength=1.5)
    return figure
