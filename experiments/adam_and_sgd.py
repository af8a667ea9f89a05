"""Lesson 19: why divide each gradient by its own usual size?"""

import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, GRID, INK, ORANGE, panels

STEEP = torch.tensor([1.0, 100.0])  # the slope at distance 1 along the valley, and across it
NOISE = 0.3  # of each measured gradient, as of one batch


def path(optimizer: type, steps: int, **options) -> torch.Tensor:
    """The places, (steps + 1, 2), on the way down from (10, 1)."""
    torch.manual_seed(0)
    place = torch.nn.Parameter(torch.tensor([10.0, 1.0]))
    updates, places = optimizer([place], **options), [place.detach().clone()]
    for _ in range(steps):
        place.grad = STEEP * place.detach() + NOISE * torch.randn(2)
        updates.step()
        places.append(place.detach().clone())
    return torch.stack(places)


def height(places: torch.Tensor) -> torch.Tensor:
    return (0.5 * STEEP * places**2).sum(-1)


def draw(quick: bool) -> Figure:
    steps = 5 if quick else 150
    paths = {
        "SGD, rate 0.019": path(torch.optim.SGD, steps, lr=0.019),
        "SGD, rate 0.005": path(torch.optim.SGD, steps, lr=0.005),
        "Adam, rate 0.2": path(torch.optim.Adam, steps, lr=0.2, betas=(0.9, 0.95)),
    }
    looks = {  # colour, and where and how the name stands beside the path
        "SGD, rate 0.019": (ORANGE, (9.2, -0.85), dict(ha="right")),
        "SGD, rate 0.005": (GREEN, (10.2, 0.45), dict(rotation=90, va="center")),
        "Adam, rate 0.2": (BLUE, (5.6, 0.32), dict(ha="center")),
    }
    figure, (bowl, curve) = panels(2)
    x, y = torch.meshgrid(
        torch.linspace(-1.5, 11, 40), torch.linspace(-1.2, 1.2, 40), indexing="xy"
    )
    levels = [0.5, 3, 10, 25, 50]
    bowl.contour(x, y, height(torch.stack([x, y], -1)), levels=levels, colors=GRID, linewidths=1)
    for name, places in paths.items():
        colour, where, how = looks[name]
        bowl.text(*where, name, color=colour, **how)
        bowl.plot(*places[:60].T, color=colour, marker=".", markersize=3, linewidth=1)
        curve.plot(height(places), color=colour, label=name)
        at = [0, steps // 15, steps // 3, steps]
        print(f"{name:<16}", *(f"step {i}: {height(places)[i].item():8.4f}" for i in at))
    bowl.plot(0, 0, "+", color=INK, markersize=9)
    bowl.set(xlabel="along the valley", ylabel="across it", title="the first 60 steps")
    curve.set(xlabel="step", ylabel="height above the bottom", yscale="log", ylim=(1e-4, 2e4))
    curve.legend(loc="upper right")
    return figure
