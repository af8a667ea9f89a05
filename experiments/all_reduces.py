"""Lesson 25: in which micro-steps are gradients averaged, by where the switch is set?"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.drawing import GREEN, GRID, RED, panels
from experiments.small import small_model, text
from support.compute import Compute, distribute

MICRO_STEPS, STEPS = 4, 2


def both(model, x, y, is_last: bool) -> None:
    model.require_backward_grad_sync = is_last  # what no_sync sets
    model(x, y)[1].backward()


def too_late(model, x, y, is_last: bool) -> None:
    _, loss = model(x, y)
    model.require_backward_grad_sync = is_last
    loss.backward()


def always(model, x, y, is_last: bool) -> None:
    model(x, y)[1].backward()


VARIANTS = {"never off": always, "off around both": both, "off after forward": too_late}
KINDS = {"sends, as it should": GREEN, "too early": RED, "does not send": GRID}


def averaged(micro_step: Callable, bytes_sent: list) -> list[int]:
    """How many buckets were all-reduced in each micro-step of two steps."""
    model = distribute(small_model(n_layer=1, n_embd=16), Compute("cpu", world_size=2))
    loader, counts, here = text(B=1), [], []

    def hook(state, bucket):
        here.append(bucket.buffer().nbytes)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, hook)
    for i in range(STEPS * MICRO_STEPS):
        here.clear()
        micro_step(model, *loader.next_batch(), i % MICRO_STEPS == MICRO_STEPS - 1)
        counts.append(len(here))
        bytes_sent.append(sum(here))
    return counts


def draw(quick: bool) -> Figure:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    figure, (axes,) = panels(height=2.6)
    at = [i + i // MICRO_STEPS * 0.4 + 0.5 for i in range(STEPS * MICRO_STEPS)]
    for row, (name, micro_step) in enumerate(VARIANTS.items()):
        counts = averaged(micro_step, sent := [])
        print(f"{name:<18} all-reduces {counts}, {sum(sent) / 1e6:.1f} MB of gradients")
        for i, count in enumerate(counts):
            wanted = GREEN if i % MICRO_STEPS == MICRO_STEPS - 1 else RED
            axes.bar(at[i], 0.76, 0.9, -row - 0.38, color=wanted if count else GRID)
    dist.destroy_process_group()
    for step in range(STEPS):
        middle = sum(at[step * MICRO_STEPS :][:MICRO_STEPS]) / MICRO_STEPS
        axes.text(middle, 0.5, f"step {step}", ha="center")
    axes.set_xticks(at, labels=[i % MICRO_STEPS for i in range(STEPS * MICRO_STEPS)])
    axes.set_yticks([0, -1, -2], labels=list(VARIANTS))
    axes.set(xlabel="micro-step", ylim=(-2.5, 0.8))
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in KINDS.values()]
    figure.legend(handles, KINDS, loc="outside lower center", ncols=3, columnspacing=1)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(False)
    return figure
