"""Lesson 03: what can a row of numbers say about a position?"""

import torch
from matplotlib.figure import Figure

from experiments.drawing import PURPLE, RED, panels

T, WIDTH, HERE = 1024, 768, 500


def sinusoids() -> torch.Tensor:
    """Vaswani et al. (2017): sine and cosine of the position, from fast to slow."""
    speed = 10000 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    angle = torch.arange(T)[:, None] * speed
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def draw(quick: bool) -> Figure:
    torch.manual_seed(0)
    tables = {"fixed waves (2017)": sinusoids(), "GPT-2's, before training": torch.randn(T, WIDTH)}
    figure, axes = panels(2, height=2.8)
    columns = (200, 320, 420)
    for i in columns:
        axes[0].plot(range(0, T, 4), tables["fixed waves (2017)"][::4, i], label=f"column {i}")
    axes[0].set(title="three columns of the fixed waves", xlabel="position", ylim=(-1.1, 1.5))
    axes[0].set(ylabel="value", yticks=[-1, -0.5, 0, 0.5, 1])
    axes[0].legend(ncols=3, fontsize=8, loc="upper center", columnspacing=0.8, handlelength=1)
    for (name, table), colour in zip(tables.items(), (PURPLE, RED), strict=True):
        rows = torch.nn.functional.normalize(table, dim=-1)
        alike = rows @ rows[HERE]
        axes[1].plot(range(0, T, 4), alike[::4], color=colour)
        near = [f"{alike[HERE + d]:.2f}" for d in (1, 10, 100, 400)]
        print(f"{name:<26} cosine with the row 1, 10, 100, 400 places on:", *near)
    axes[1].set(title=f"how alike each row is to row {HERE}", xlabel="position", ylim=(-0.2, 1.05))
    axes[1].set(ylabel="cosine")
    axes[1].text(0, 0.6, "fixed waves\n(2017)", color=PURPLE)
    axes[1].text(620, 0.8, "GPT-2's,\nbefore training", color=RED)
    return figure
