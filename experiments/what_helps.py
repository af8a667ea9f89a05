"""Lesson 65: what saves tokens, one change at a time and together, for two sizes of model."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import panels
from experiments.letters import SEEDS, STEPS, TOKENS_A_STEP, flags, label
from experiments.small import TEXT
from train_gpt2 import GPT

LINE = "--schedule linear --min_lr 0".split()
SMALL = 2e-3  # the rate of the small size
TUNED = {"2 layers of width 64": (4e-3, 32e-3), "4 layers of width 128": (4e-3, 16e-3)}


@contextmanager
def embeddings_without_decay() -> Iterator[None]:
    configure = GPT.configure_optimizers

    def changed(model: GPT, *how) -> torch.optim.Optimizer:
        optimizer = configure(model, *how)
        decayed, not_decayed = (group["params"] for group in optimizer.param_groups)
        for weight in (model.lm_head.weight, model.transformer.wpe.weight):
            decayed.pop(next(i for i, p in enumerate(decayed) if p is weight))
            not_decayed.append(weight)
        return optimizer

    with patch.object(GPT, "configure_optimizers", changed):
        yield


@contextmanager
def a_longer_memory() -> Iterator[None]:
    configure = GPT.configure_optimizers

    def changed(model: GPT, *how) -> torch.optim.Optimizer:
        optimizer = configure(model, *how)
        for group in optimizer.param_groups:
            group["betas"] = (0.9, 0.99)
        return optimizer

    with patch.object(GPT, "configure_optimizers", changed):
        yield


def steps_to_the_top(share: float) -> list:
    return ["--warmup_steps", round(share * STEPS)]


def draw(quick: bool, source: str = TEXT) -> Figure:
    figure, both = panels(2)
    for axes, (shape, (rate, for_muon)) in zip(both, TUNED.items(), strict=True):
        best, muon = flags(shape, rate, "adamw", source), flags(shape, for_muon, "muon", source)
        variants = {
            f"adamw {SMALL:g}": flags(shape, SMALL, "adamw", source),
            f"adamw {rate:g}": best,
            f"adamw {rate:g}, to 0": [*best, *LINE],
            f"muon {for_muon:g}": muon,
            f"muon {for_muon:g}, to 0": [*muon, *LINE],
            f"muon {4 * SMALL:g}, to 0": [  # the preset
                *flags(shape, 4 * SMALL, "muon", source),
                *LINE,
            ],
        }
        logs = judge.compare(f"muon {shape}", variants, SEEDS, quick)
        others = {
            "no warm-up": [*best, *steps_to_the_top(0)],
            "warm-up of a fifth": [*best, *steps_to_the_top(0.2)],
            "no decay": [*best, "--weight_decay", 0],
        }
        logs |= judge.compare(f"muon {shape}", others, SEEDS, quick)
        with embeddings_without_decay():
            name = "embeddings not decayed"
            logs |= judge.compare(f"muon {shape}", {name: best}, SEEDS, quick)
        with a_longer_memory():
            logs |= judge.compare(f"muon {shape}", {"betas 0.9, 0.99": best}, SEEDS, quick)
        found = judge.curves(logs)
        print(f"\n{shape}: against {SMALL:g}")
        judge.report({name: found[name] for name in variants}, f"adamw {SMALL:g}")
        print(f"against {rate:g}")
        alone = {name: of for name, of in found.items() if name not in variants}
        judge.report({f"adamw {rate:g}": found[f"adamw {rate:g}"], **alone}, f"adamw {rate:g}")
        judge.plot(axes, {name: found[name] for name in list(variants)[:5]}, TOKENS_A_STEP)
        label(axes, shape)
        axes.legend(fontsize=8, loc="upper right")
    return figure
