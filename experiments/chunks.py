"""Lesson 18: how much memory do the logits cost, in one piece and in chunks?"""

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from experiments.drawing import panels
from support.loss import ChunkedCrossEntropy

C, VOCAB, ROWS = 128, 50304, 256  # the small model's width; rows of a chunk


def one_piece(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(x, weight), targets)


def in_chunks(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ChunkedCrossEntropy.apply(x, weight, targets, ROWS, 64, torch.float32, True)


def peak(loss_function, rows: int) -> float:
    """MB that forward and backward of head and loss allocate at most, beyond x and the weight."""
    torch.manual_seed(0)
    x = torch.randn(rows, C, requires_grad=True)
    weight = (0.02 * torch.randn(VOCAB, C)).requires_grad_()
    targets = torch.randint(0, VOCAB, (rows,))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loss_function(x, weight, targets).backward()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest / 1e6


def draw(quick: bool) -> Figure:
    counts = [64, 128] if quick else [128, 256, 512, 1024, 2048]
    figure, (axes,) = panels(height=3.0)
    for function, name in ((one_piece, "in one piece"), (in_chunks, "in chunks of 256 rows")):
        found = [peak(function, rows) for rows in counts]
        axes.plot(counts, found, "o-", label=name)
        axes.annotate(
            f"{found[-1]:.0f} MB", (counts[-1], found[-1]), (8, -3), textcoords="offset points"
        )
        print(f"{name:<22}" + "".join(f"  {n} rows: {mb:.0f} MB" for n, mb in zip(counts, found)))
    axes.plot(counts, [n * VOCAB * 4 / 1e6 for n in counts], ":", label="the logits alone")
    axes.set(
        xlabel="rows (B x T)", ylabel="MB at most", xticks=counts[1:], xlim=(0, counts[-1] * 1.15)
    )
    axes.legend()
    return figure
