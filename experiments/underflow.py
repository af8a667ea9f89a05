"""Lesson 14: which gradients of a real step are too small for fp16?"""

import numpy as np
import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, ORANGE, PURPLE, RED, panels
from experiments.small import small_model, text

SCALES = (
    (1, BLUE, "256 predictions a batch"),
    (1 / 256, PURPLE, "65,536 a batch: divided by 256"),
    (256, ORANGE, "the same, loss scaled by 65,536"),
)


def gradients(steps: int) -> torch.Tensor:
    """Sizes of what flows back through the blocks of the small model, after some training."""
    model, loader = small_model(), text(B=4)
    updates = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen = []
    for step in range(steps + 1):
        hooks = []
        if step == steps:
            for block in model.transformer.h:
                for part in (block.attn, block.mlp):
                    hooks.append(
                        part.register_full_backward_hook(
                            lambda _, __, out: seen.append(out[0].abs().flatten())
                        )
                    )
        _, loss = model(*loader.next_batch())
        loss.backward()
        updates.step()
        updates.zero_grad()
    return torch.cat(seen)


def draw(quick: bool) -> Figure:
    sizes = gradients(2 if quick else 50)
    figure, (axes,) = panels(height=3.8)
    edges = np.logspace(-14, 2, 97)
    smallest, full = 2.0**-24, 2.0**-14  # of fp16: the smallest number, the smallest with all bits
    for scale, colour, label in SCALES:
        scaled = sizes * scale
        counts = np.histogram(scaled.numpy(), edges)[0] / len(sizes)
        axes.stairs(counts * 100, edges, color=colour, label=label, fill=True, alpha=0.45)
        lost = (scaled.half() == 0).float().mean().item()
        rough = ((scaled < full) & (scaled.half() != 0)).float().mean().item()
        print(f"{label:<32}{lost:6.1%} become 0 in fp16, {rough:6.1%} lose bits;", end=" ")
        print(f"{(scaled.bfloat16() == 0).float().mean().item():.1%} become 0 in bfloat16")
    for x, words in ((smallest, "below:\n0"), (full, "below:\nfewer bits")):
        axes.axvline(x, color=RED, linewidth=1.2, linestyle="--")
        axes.text(x * 0.8, axes.get_ylim()[1] * 1.04, words, ha="right", color=RED, fontsize=9)
    axes.set(xscale="log", xlabel="size of a gradient", xlim=(1e-11, 1e2))
    axes.set(ylabel="% of the gradients, a bin", yticks=[0, 5, 10, 15])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    print(f"{len(sizes)} gradients, median {sizes.median():.1e}, largest {sizes.max():.1e}")
    return figure
