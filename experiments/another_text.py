"""Lesson 54: what does a trained model gain on another text, and what does it forget?"""

import argparse
import inspect
import optparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from experiments.drawing import panels
from experiments.small import TEXT, T, small_model
from train_gpt2 import GPT

SHAPE = dict(n_layer=2, n_head=2, n_embd=64, vocab_size=256)  # a token is a byte


def rows(content: str) -> torch.Tensor:
    """Rows of 64 + 1 bytes."""
    tokens = torch.tensor(list(content.encode()))
    return tokens[: len(tokens) // (T + 1) * (T + 1)].view(-1, T + 1)


@torch.no_grad()
def loss_on(model: GPT, rows: torch.Tensor) -> float:
    return model(rows[:, :-1], rows[:, 1:])[1].item()


def train(model: GPT, rows: torch.Tensor, steps: int, rate: float, *held_out) -> list[list[float]]:
    """Updates with 16 rows each; for each text that is held out, its loss at every tenth step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    curves: list[list[float]] = [[] for _ in held_out]
    for step in range(steps + 1):
        if step % 10 == 0:
            for curve, other in zip(curves, held_out):
                curve.append(loss_on(model, other))
        batch = rows[torch.arange(16 * step, 16 * step + 16) % len(rows)]
        optimizer.zero_grad()
        model(batch[:, :-1], batch[:, 1:])[1].backward()
        optimizer.step()
    return curves


def draw(quick: bool) -> Figure:
    first, steps = (10, 10) if quick else (500, 120)
    plays, code = rows(Path(TEXT).read_text()), rows(inspect.getsource(argparse))
    held_out = rows(inspect.getsource(optparse))[:64], plays[-64:]
    parent = small_model(**SHAPE)
    train(parent, plays[:-64], first, 3e-3)
    figure, axes = panels(2)
    for name, rate in (("new, 0.003", 3e-3), ("trained, 0.003", 3e-3), ("trained, 0.0003", 3e-4)):
        model = small_model(**SHAPE)
        if name.startswith("trained"):
            model.load_state_dict(parent.state_dict())
        curves = train(model, code, steps, rate, *held_out)
        for panel, curve in zip(axes, curves):
            panel.plot(range(0, steps + 1, 10), curve, label=name)
        ends = [f"{curve[0]:.2f} -> {curve[1]:.2f} -> {curve[-1]:.2f}" for curve in curves]
        print(f"{name:<16} at 0, 10, {steps}: code {ends[0]}   plays {ends[1]}")
    for panel, title in zip(axes, ("new text: Python code", "old text: plays")):
        panel.set(title=title, xlabel="step", ylabel="loss (nats a byte)", ylim=(2.2, 5.8))
        panel.legend(title="model and rate")
    return figure
