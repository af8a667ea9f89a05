"""Lesson 64: Muon against AdamW, each at the best of its rates, for two sizes of model."""

from unittest.mock import patch

import torch
from matplotlib.figure import Figure
from torch.optim import _muon

from experiments import judge
from experiments.drawing import panels
from experiments.letters import SEEDS, SHAPES, TOKENS_A_STEP, flags, label
from experiments.small import TEXT

RATES = {
    "adamw": (1e-3, 2e-3, 4e-3, 8e-3, 16e-3),
    "muon": (4e-3, 8e-3, 16e-3, 32e-3, 64e-3),
}
WHOLE = _muon._zeropower_via_newtonschulz


def each_of_three(update: torch.Tensor, *how) -> torch.Tensor:
    """Newton-Schulz for query, key and value apart, where they are one matrix (3 C, C)."""
    if update.size(0) != 3 * update.size(1):
        return WHOLE(update, *how)
    return torch.cat([WHOLE(part, *how) for part in update.chunk(3)]) / 3**0.5  # as large as whole


def best_rate(shape: str, optimizer: str, quick: bool, source: str) -> tuple[float, list[float]]:
    """The rate with the lowest last loss, of one seed, and all these losses."""
    rates = RATES[optimizer]
    variants = {f"{optimizer} {rate:g}": flags(shape, rate, optimizer, source) for rate in rates}
    found = judge.curves(judge.compare(f"muon {shape}", variants, SEEDS[:1], quick))
    losses = {variant: judge.last(curves)[0] for variant, curves in found.items()}
    print("   ".join(f"{variant}: {loss:.3f}" for variant, loss in losses.items()))
    return rates[list(losses.values()).index(min(losses.values()))], list(losses.values())


def draw(quick: bool, source: str = TEXT) -> Figure:
    figure, (left, right) = panels(2)
    names = {"adamw": "AdamW", "muon": "Muon"}
    for shape, style in zip(SHAPES, ("o:", "o-"), strict=True):
        print(f"\n{shape}: one seed for each rate, then three for the best")
        variants = {}
        for optimizer, colour in (("adamw", "C0"), ("muon", "C1")):
            rate, losses = best_rate(shape, optimizer, quick, source)
            name = f"{names[optimizer]}, {shape[:8]}"
            left.plot(RATES[optimizer], losses, style, color=colour, label=name)
            variants[f"{optimizer} {rate:g}"] = flags(shape, rate, optimizer, source)
        baseline, best = variants
        logs = judge.compare(f"muon {shape}", variants, SEEDS, quick)
        with patch.object(_muon, "_zeropower_via_newtonschulz", each_of_three):
            apart = {f"{best}, q, k, v apart": variants[best]}
            logs |= judge.compare(f"muon {shape}", apart, SEEDS, quick)
        found = judge.curves(logs)
        judge.report(found, baseline)
    judge.plot(right, {name: found[name] for name in variants}, TOKENS_A_STEP)
    left.set(xlabel="rate, in thousandths", ylabel="last validation loss (nats)", xscale="log")
    ticks = sorted({*RATES["adamw"], *RATES["muon"]})
    left.set_xticks(ticks, [f"{1000 * rate:g}" for rate in ticks])
    left.minorticks_off()
    label(right, shape)
    left.set(ylim=(1.88, 3.3))
    left.legend(loc="upper right")
    return figure
