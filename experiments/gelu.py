"""Lesson 02: how do GELU and ReLU differ, and how many units never fire after some training?"""

import torch
from matplotlib.figure import Figure
from torch import nn

from experiments.attention import train, used_tokens
from experiments.drawing import panels
from experiments.small import small_model, text

KINDS = {"GELU": nn.GELU(approximate="tanh"), "ReLU": nn.ReLU()}


def silent(kind: nn.Module, steps: int, rate: float) -> tuple[float, float, float]:
    """Last loss, share of hidden units negative at every token, share with no slope at any."""
    used = used_tokens()
    model = small_model(vocab_size=len(used))
    for block in model.transformer.h:
        block.mlp.gelu = kind
    loss = train(model, steps, rate)
    inputs: list[torch.Tensor] = []
    for block in model.transformer.h:
        block.mlp.c_fc.register_forward_hook(lambda *a: inputs.append(a[-1].flatten(0, 1)))
    with torch.no_grad():
        model.hidden(torch.searchsorted(used, text(B=64).next_batch()[0]))  # 4,096 tokens
    x = torch.cat(inputs, dim=1).requires_grad_()
    kind(x).sum().backward()
    never = (x.detach().amax(0) <= 0).float().mean().item()
    flat = (x.grad.abs().amax(0) < 1e-3).float().mean().item()
    return loss, never, flat


def draw(quick: bool) -> Figure:
    figure, axes = panels(2, height=2.7)
    x = torch.linspace(-4, 3, 141, requires_grad=True)
    for name, kind in KINDS.items():
        y = kind(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        axes[0].plot(x.detach(), y.detach(), label=name)
        axes[1].plot(x.detach(), slope, label=name)
    for panel, title in zip(axes, ("what comes out", "its slope"), strict=True):
        panel.set(title=title, xlabel="what goes in")
        panel.legend()
    for rate in (2e-3,) if quick else (2e-3, 2e-2):
        for name, kind in KINDS.items():
            loss, never, flat = silent(kind, 2 if quick else 150, rate)
            print(f"rate {rate} {name}: loss {loss:.2f}, never {never:.2%}, flat {flat:.2%}")
    return figure
