"""Lesson 19: what does one bad batch do to a run, with clipping and without?"""

import math

import torch
from matplotlib.figure import Figure
from torch import nn

from experiments.drawing import SOFT, panels
from experiments.small import small_model, text

BAD = 40  # the step of the bad batch, whose gradient is a thousand times too large


def train(steps: int, grad_clip: float, optimizer: type, **options) -> tuple[list, list]:
    """Losses and norms before clipping, step by step."""
    model, loader = small_model(n_layer=2, n_embd=64), text(B=4)
    updates, losses, norms = optimizer(model.parameters(), **options), [], []
    for step in range(steps):
        _, loss = model(*loader.next_batch())
        (loss * (1000 if step == BAD else 1)).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), grad_clip).item())
        updates.step()
        updates.zero_grad()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
    return losses, norms


def smooth(values: list) -> torch.Tensor:
    """Means of 10 neighbours: a batch has only 256 tokens, and some are harder than others."""
    return torch.tensor(values).unfold(0, 10, 5).mean(1) if len(values) > 10 else values


def draw(quick: bool) -> Figure:
    steps = 3 if quick else 160
    adamw = dict(optimizer=torch.optim.AdamW, lr=2e-3, betas=(0.9, 0.95))
    sgd = dict(optimizer=torch.optim.SGD, lr=0.3)
    figure, axes = panels(2)
    for panel, name, options in zip(axes, ("AdamW", "SGD"), (adamw, sgd), strict=True):
        for label, clip in (("clipped to 1", 1.0), ("not clipped", 1e9)):
            losses, norms = train(steps, clip, **options)
            means = smooth(losses)
            panel.plot([5 + 5 * i for i in range(len(means))], means, label=label)
            shown = [
                f"{losses[min(i, len(losses) - 1)]:.2f}"
                for i in (0, BAD, BAD + 1, BAD + 2, BAD + 20)
            ]
            last = sum(losses[-20:]) / len(losses[-20:])
            print(f"{name}, {label:<12}", *shown, f"last 20: {last:.2f}")
            print("   norms", *(f"{norm:.1f}" for norm in norms[: BAD + 2 : 6]))
        panel.axvline(BAD, color=SOFT, linewidth=1, linestyle=":")
        panel.text(BAD + 4, 12.5, "the bad batch", color=SOFT)
        panel.set(title=name, xlabel="step", ylabel="loss (nats)", ylim=(5, 13))
        panel.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
    return figure
