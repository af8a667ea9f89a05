"""Lesson 02: what do the + and the place of the norms do to the gradient, and to the rows?"""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from experiments.drawing import panels
from experiments.small import small_model, text
from train_gpt2 import Block


def post_norm(block: Block, x: torch.Tensor) -> torch.Tensor:
    x = block.ln_1(x + block.attn(x))
    return block.ln_2(x + block.mlp(x))


def no_addition(block: Block, x: torch.Tensor) -> torch.Tensor:
    return block.mlp(block.ln_2(block.attn(block.ln_1(x))))


KINDS = {
    "pre-norm": Block.forward,
    "post-norm": post_norm,
    "pre-norm, no +": no_addition,
}


def measure(forward: Callable, layers: int, start: str) -> tuple[list[float], list[float]]:
    """In the stream before each block and at the end: the gradient, and how alike the rows are."""
    model = small_model(n_layer=layers)
    for module in model.transformer.h.modules():
        if isinstance(module, torch.nn.Linear) and start == "Xavier":
            torch.nn.init.xavier_normal_(module.weight)
    x, y = text(B=2).next_batch()
    stream = [model.transformer.wte(x) + model.transformer.wpe.weight[: x.size(1)]]
    for block in model.transformer.h:
        stream.append(forward(block, stream[-1]))
    for tensor in stream:
        tensor.retain_grad()
    logits = model.lm_head(model.transformer.ln_f(stream[-1]))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
    rows = [torch.nn.functional.normalize(tensor[0].detach(), dim=-1) for tensor in stream]
    gradients = [tensor.grad.norm().item() for tensor in stream]
    return gradients, [(r @ r.T).mean().item() for r in rows]


def draw(quick: bool) -> Figure:
    layers = 4 if quick else 24
    figure, axes = panels(2, height=2.9)
    for start in ("GPT-2's", "Xavier"):
        for name, forward in KINDS.items():
            gradients, alike = measure(forward, layers, start)
            print(f"{start:<8} {name:<18} gradient", *(f"{g:.1e}" for g in gradients[::4]))
            print(" " * 27, "alike   ", *(f"{a:.2f}   " for a in alike[::4]))
            if start == "GPT-2's":
                axes[0].plot(range(1, layers + 1), gradients[1:], label=name)
                axes[1].plot(range(1, layers + 1), alike[1:], label=name)
    axes[0].set(yscale="log", ylabel="gradient of the loss (norm)", ylim=(0.01, 20))
    axes[1].set(ylabel="cosine between rows (mean)", ylim=(0, 1.05))
    for panel, y in zip(axes, (0.3, 0.5)):
        panel.set(xlabel="after block")
        panel.legend(loc="center right", bbox_to_anchor=(1, y))
    return figure
