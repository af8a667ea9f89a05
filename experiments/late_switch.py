"""Lesson 25: what becomes of two processes if only the first micro-step's gradient is averaged?"""

import torch
from matplotlib.figure import Figure
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

from experiments.drawing import BLUE, GREEN, ORANGE, panels
from experiments.small import TEXT, T, small_model, text
from train_gpt2 import GPT, DataLoaderLite

RANKS, MICRO_STEPS, B, STEPS, RATE = 2, 4, 1, 40, 2e-3
SHOWN = (1, 10, 20, 40)


def average(models: list[GPT]) -> None:
    """What an all-reduce does: each gradient becomes the mean over the processes."""
    for gradients in zip(*([p.grad for p in model.parameters()] for model in models)):
        mean = sum(gradients) / RANKS
        for gradient in gradients:
            gradient.copy_(mean)


def train(averaged: int, steps: int) -> list[dict]:
    """Two models side by side; they average their gradients in micro-step `averaged` only.

    For each step: the length of all weights, how far apart the models are, and each one's loss on
    other text before the update.
    """
    models = [small_model(n_layer=2, n_head=2, n_embd=64) for _ in range(RANKS)]
    optimizers = [model.configure_optimizers(0.1, RATE, "cpu") for model in models]
    loaders = [DataLoaderLite(B, T, rank, RANKS, "train", TEXT) for rank in range(RANKS)]
    other, found = text(B=8, split="val").next_batch(), []
    for _ in range(steps):
        with torch.no_grad():
            losses = [model(*other)[1].item() for model in models]
        for micro_step in range(MICRO_STEPS):
            for model, loader in zip(models, loaders):
                (model(*loader.next_batch())[1] / MICRO_STEPS).backward()
            if micro_step == averaged:
                average(models)
        gradient = parameters_to_vector([p.grad for p in models[0].parameters()]).clone()
        for model, optimizer in zip(models, optimizers):
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        a, b = (parameters_to_vector(model.parameters()).detach() for model in models)
        apart, length = (a - b).norm().item(), a.norm().item()
        found.append(dict(losses=losses, apart=apart, length=length, gradient=gradient))
    return found


def draw(quick: bool) -> Figure:
    steps = 3 if quick else STEPS
    right_way, late = train(MICRO_STEPS - 1, steps), train(0, steps)
    true, wrong = (run[0]["gradient"] for run in (right_way, late))
    print(f"gradient of step 1 is wrong by {(wrong - true).norm() / true.norm():.0%} of its length")
    for step in SHOWN[:1] if quick else SHOWN:
        right, left = right_way[step - 1], late[step - 1]
        print(
            f"step {step:2}: apart {right['apart']:.1f} and {left['apart']:.1f}, all weights"
            f" {right['length']:.0f}; loss {right['losses'][0]:.2f}, late"
            f" {left['losses'][0]:.2f} and {left['losses'][1]:.2f}"
        )
    figure, (distance, loss) = panels(2)
    x = range(1, steps + 1)
    distance.plot(x, [step["apart"] for step in right_way], color=GREEN, label="around both")
    distance.plot(x, [step["apart"] for step in late], color=ORANGE, label="after forward")
    distance.set(xlabel="step", ylabel="distance of the two models", title="one model, or two")
    loss.plot(x, [step["losses"][0] for step in right_way], color=GREEN, label="around both")
    for rank, (colour, style) in enumerate(((ORANGE, "-"), (BLUE, "--"))):
        losses = [step["losses"][rank] for step in late]
        loss.plot(x, losses, style, color=colour, label=f"after forward, rank {rank}")
    loss.set(xlabel="step", ylabel="loss on other text (nats)", title="and nobody notices")
    for axes in (distance, loss):
        axes.legend()
    return figure
