"""Lesson 11: how large are the activations, layer after layer, by how the weights start?"""

import math

import torch
from matplotlib.figure import Figure

from experiments.drawing import panels
from experiments.small import text
from train_gpt2 import GPT, GPTConfig

FACTORS = {"He's x 1.5": 1.5, "He: sqrt(2 / fan_in)": 1.0, "He's x 0.7": 0.7}


@torch.no_grad()
def stream(is_scaled: bool, n_layer: int, n_embd: int) -> list[float]:
    """The std of the residual stream: embedded, and after each block of a new model."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(n_layer=n_layer, n_embd=n_embd))
    if not is_scaled:
        for name, p in model.named_parameters():
            if name.endswith("c_proj.weight"):
                p.mul_(math.sqrt(2 * n_layer))
    found = []
    for module in model.transformer.h:
        module.register_forward_pre_hook(lambda _, args: found.append(args[0].std().item()))
    model.transformer.ln_f.register_forward_pre_hook(
        lambda _, args: found.append(args[0].std().item())
    )
    model.hidden(text(B=4).next_batch()[0])
    return found


@torch.no_grad()
def plain(factor: float, layers: int = 30, width: int = 256) -> list[float]:
    """The std after each layer of linear maps and ReLUs: no addition, no LayerNorm."""
    torch.manual_seed(0)
    x = torch.randn(64, width)
    found = [x.std().item()]
    for _ in range(layers):
        x = (x @ torch.randn(width, width) * factor * math.sqrt(2 / width)).relu()
        found.append(x.std().item())
    return found


def draw(quick: bool) -> Figure:
    shape = (2, 96) if quick else (12, 768)
    figure, (left, right) = panels(2)
    for name, factor in FACTORS.items():
        stds = plain(factor)
        left.plot(stds, label=name)
        print(f"{name:<22} {stds[0]:.3f} -> {stds[10]:.3g} after 10, {stds[-1]:.3g} after 30")
    left.set(
        yscale="log", xlabel="layer", ylabel="standard deviation", title="plain layers with ReLU"
    )
    left.set_ylim(1e-6, 1e9)
    left.legend(loc="upper left")
    for name, is_scaled in {"0.02 everywhere": False, "scaled by 1/sqrt(24)": True}.items():
        stds = stream(is_scaled, *shape)
        right.plot(stds, "o-", markersize=3, label=name)
        print(f"{name:<22} {' '.join(f'{s:.3f}' for s in stds)}")
    for layers in (3, 12) if quick else (3, 12, 48):
        ends = [stream(is_scaled, layers, n_embd=96 if quick else 384)[-1] for is_scaled in (0, 1)]
        print(
            f"width 384, {layers:2} layers:"
            f" {ends[0]:.2f} with 0.02 everywhere, {ends[1]:.2f} scaled"
        )
    right.set(xlabel="after block", ylabel="standard deviation", title="residual stream, 124M")
    right.set_ylim(0)
    right.set_xticks(range(0, 13, 3))
    right.legend(loc="upper left")
    return figure
