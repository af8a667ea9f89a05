"""Lesson 03: what do the rows of positions look like after training?"""

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from experiments import judge
from experiments.drawing import panels
from experiments.letters import flags
from support.runs import newest_checkpoint

SHAPE, RATE = "4 layers of width 128", 4e-3  # AdamW's best of lesson 64
LENGTHS = 500, 4000  # steps of 1,024 bytes


def positions(steps: int, quick: bool) -> Tensor:
    """(64, 128): wpe after a run of so many steps, without the mean of its rows."""
    run = [*flags(SHAPE, RATE), "--max_steps", steps, "--eval_every", 0, "--save_every", steps]
    log = judge.run(f"positions/adamw {steps}", run, quick)
    wpe = newest_checkpoint(str(log.parent))["model"]["transformer.wpe.weight"]
    return wpe - wpe.mean(0)


def alike(wpe: Tensor) -> list[float]:
    """The mean cosine of two rows, by how many places they are apart."""
    rows = normalize(wpe, dim=1)
    cosines = rows @ rows.T
    return [cosines.diagonal(apart).mean().item() for apart in range(len(wpe) // 2)]


def smoothest(wpe: Tensor, count: int) -> list[int]:
    """The channels that change least from one position to the next, for their size."""
    steps = (wpe[1:] - wpe[:-1]).square().mean(0) / wpe.square().mean(0)
    return steps.argsort()[:count].tolist()


def draw(quick: bool) -> Figure:
    figure, (left, right) = panels(2)
    noise = 0.01 * torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    tables = {"0": noise} | {f"{steps:,}": positions(steps, quick) for steps in LENGTHS}
    for steps, wpe in tables.items():
        cosines = alike(wpe)
        print(
            f"{steps} steps: cosine of rows 1, 2, 3, ... apart:",
            *(f"{c:.2f}" for c in cosines[1:13]),
        )
        right.plot(cosines, label=f"{steps} steps")
    for channel in smoothest(wpe, 3):
        left.plot(wpe[:, channel], label=f"channel {channel}")
    left.set(title=f"three channels after {steps} steps", xlabel="position")
    left.set(ylabel="value, mean subtracted")
    right.set(title="how alike two rows are", xlabel="positions apart", ylabel="mean cosine")
    left.legend()
    right.legend()
    return figure
