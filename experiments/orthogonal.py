"""Lesson 64: what Muon makes of an update: its singular values, before and after; and its cost."""

import time
from statistics import median

import torch
from matplotlib.figure import Figure
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, _zeropower_via_newtonschulz

from experiments.drawing import PURPLE, panels
from experiments.small import small_model, text


def print_cost(pairs: int) -> None:
    """Of a step of the small model, fp32, with either optimizer, in turns."""
    sides = {}
    for kind in ("adamw", "muon"):
        model, loader = small_model(), text(B=4)
        sides[kind] = model, loader, model.configure_optimizers(0.1, 2e-3, "cpu", kind), []
    for _ in range(2 + pairs):
        for model, loader, optimizer, seconds in sides.values():
            start = time.perf_counter()
            model(*loader.next_batch())[1].backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - start)
    adamw, muon = (seconds[2:] for *_, seconds in sides.values())
    ratio = median(m / a for m, a in zip(muon, adamw, strict=True))
    print(
        f"a step of 256 tokens: {1000 * median(adamw):.0f} ms with AdamW,"
        f" {1000 * median(muon):.0f} ms with Muon, {ratio:.2f} times"
    )


def draw(quick: bool) -> Figure:
    print_cost(2 if quick else 30)
    model, loader = small_model(n_layer=2), text(B=8)
    matrix = model.transformer.h[1].mlp.c_fc.weight  # (512, 128)
    optimizer, total = model.configure_optimizers(0.1, 2e-3, "cpu"), torch.zeros_like(matrix)
    for _ in range(5 if quick else 100):
        model(*loader.next_batch())[1].backward()
        total = 0.95 * total + matrix.grad  # Muon's momentum
        optimizer.step()
        optimizer.zero_grad()
    before = torch.linalg.svdvals(total)
    figure, (left, right) = panels(2)
    left.semilogy(before / before[0], label="0 steps")
    right.plot(before / before.norm(), label="0 steps")
    for steps in (1, 3, 5):
        coefficients = DEFAULT_A, DEFAULT_B, DEFAULT_C
        update = _zeropower_via_newtonschulz(total, coefficients, steps, 1e-7)
        after = torch.linalg.svdvals(update.float())
        right.plot(after, label=f"{steps} step{'s' * (steps > 1)}")
        if steps == 5:
            left.semilogy(after / after[0], color=PURPLE, label="5 steps")
        print(f"{steps} steps: {after[0]:.2f} the largest, {after[-1]:.3f} the smallest")
    share = (before[:10].square().sum() / before.square().sum()).item()
    print(f"before: largest / smallest {before[0] / before[-1]:,.0f}")
    print(f"the first 10 of {len(before)} have {share:.1%} of the sum of squares")
    left.set(xlabel="singular value, the largest first", ylabel="as a share of the largest")
    right.set(xlabel="singular value, the largest first", ylabel="value", ylim=(0, 1.3))
    left.legend()
    right.legend()
    return figure
