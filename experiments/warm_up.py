"""Lesson 20: what does the schedule change, and what a rate that is too high?"""

import math

import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, PURPLE, RED, panels
from experiments.small import small_model, text
from support.compute import Compute
from train_gpt2 import Settings, get_lr, train_step


def losses(s: Settings) -> list[float]:
    model, loader = small_model(n_layer=2, n_embd=64), text(B=4)
    optimizer = model.configure_optimizers(s.weight_decay, s.max_lr, "cpu")
    found = []
    for step in range(s.max_steps):
        rate = get_lr(step, s)
        loss, _ = train_step(model, optimizer, loader, Compute("cpu"), 1, rate, s.grad_clip)
        found.append(loss.item())
    return found


def settings(steps: int, warmup_steps: int, max_lr: float) -> Settings:
    least = max_lr / 10
    return Settings(max_steps=steps, warmup_steps=warmup_steps, max_lr=max_lr, min_lr=least)


def draw(quick: bool) -> Figure:
    steps = 3 if quick else 150
    runs = {
        "0.0003, warm-up": (settings(steps, steps // 10, 3e-4), PURPLE),
        "0.03, warm-up": (settings(steps, steps // 10, 3e-2), BLUE),
        "0.03, none": (settings(steps, 0, 3e-2), GREEN),
        "0.3, warm-up": (settings(steps, steps // 10, 3e-1), ORANGE),
        "0.3, none": (settings(steps, 0, 3e-1), RED),
    }
    figure, (rates, curves) = panels(2, height=3.5)
    for name, (s, colour) in runs.items():
        found = losses(s)
        last = sum(found[-20:]) / len(found[-20:])
        print(
            f"{name:<16}",
            *(f"{found[i % steps]:6.2f}" for i in (0, 1, 5, 10, 20, 50)),
            f"{last:.2f}  highest {max(found):.2f}  first 20 {sum(found[:20]) / 20:.2f}",
        )
        means = torch.tensor([math.nan] * 9 + found).unfold(0, 10, 3).nanmean(1)
        line = [get_lr(i, s) for i in range(0, steps, 2)]
        rates.plot(range(0, steps, 2), line, color=colour, label=name)
        x = [*range(steps)[:21], *range(21, steps, 3)]
        curves.plot(x, [*found[:21], *means[7:]], color=colour, label=name)
    rates.set(xlabel="step", ylabel="learning rate", yscale="log", ylim=(1e-5, 1e3))
    rates.set_yticks([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1])
    curves.set(xlabel="step; from 21 on means of 10", ylabel="loss (nats)")
    curves.set(ylim=(5, 25), yticks=range(5, 26, 5))
    curves.set_xscale("symlog", linthresh=10)  # the first 10 steps take half of the width
    curves.set_xticks([0, 5, 10, 20, 50, 100], ["0", "5", "10", "20", "50", "100"])
    curves.set_xlim(0, steps)
    for axes in (rates, curves):
        axes.minorticks_off()
        axes.legend(loc="upper right", fontsize=9)
    return figure
