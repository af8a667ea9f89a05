"""Lesson 47: which tokens go through the model for each new one, with and without a cache?"""

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.drawing import BLUE, INK, ORANGE, SOFT, panels
from experiments.small import small_model

PROMPT, NEW = 4, 8


def passes(with_cache: bool) -> list[range]:
    """For each new token the places that the first layer works on, seen by a hook."""
    model, seen = small_model(), []
    hook = model.transformer.h[0].register_forward_hook(lambda _, x, __: seen.append(x[0].size(1)))
    idx = torch.zeros(1, PROMPT, dtype=torch.long)
    if with_cache:
        model.generate(idx, NEW)
    else:
        with torch.no_grad():
            for _ in range(NEW):
                logits, _ = model(idx)
                idx = torch.cat((idx, logits[:, -1:].argmax(-1)), dim=1)
    hook.remove()
    return [range(PROMPT + i - count, PROMPT + i) for i, count in enumerate(seen)]


def draw(quick: bool) -> Figure:
    figure, both = panels(2, height=2.9)
    for axes, with_cache in zip(both, (False, True)):
        rows = passes(with_cache)
        total = sum(len(row) for row in rows)
        name = "with a cache" if with_cache else "without"
        print(f"{name:<14} {[len(row) for row in rows]} = {total} token passes")
        for i, row in enumerate(rows):
            for place in range(PROMPT + i):
                colour = BLUE if place in row else "none"
                box = (place + 0.08, i + 0.58), 0.84, 0.84
                axes.add_patch(Rectangle(*box, facecolor=colour, edgecolor=SOFT, linewidth=0.6))
            axes.plot(PROMPT + i + 0.5, i + 1, "o", color=ORANGE, markersize=5)
        axes.text(PROMPT + NEW + 0.4, 0.9, f"{total} passes", ha="right", color=INK)
        axes.set(
            title=name,
            xlabel="place in the text",
            ylabel="new token",
            xlim=(-0.2, PROMPT + NEW + 0.6),
        )
        axes.set(ylim=(NEW + 0.7, 0.3), yticks=range(1, NEW + 1))
        axes.set_xticks([place + 0.5 for place in range(0, PROMPT + NEW, 2)])
        axes.set_xticklabels(range(0, PROMPT + NEW, 2))
        axes.grid(False)
    return figure
