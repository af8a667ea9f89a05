"""Lesson 69: what do QK-norm and the z-loss do, which are not in GPT-2?"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import panels
from experiments.letters import SEEDS, TOKENS_A_STEP, flags, label
from experiments.small import TEXT
from train_gpt2 import GPT

RATES = 4e-3, 16e-3  # AdamW's best at both sizes (lesson 65), and four times that
OWN = 2e-3, 4e-3, 8e-3, 16e-3
SHAPES = "2 layers of width 64", "4 layers of width 128"


@contextmanager
def qk_norm() -> Iterator[None]:
    """Each query and key is as long as the root of its width (Henry et al. 2020, without a factor
    to be learnt): a score is then their cosine times that root, at most 5.7 at width 32."""
    attend = F.scaled_dot_product_attention

    def changed(q, k, v, **how):
        width = q.shape[-1:]
        return attend(F.rms_norm(q, width), F.rms_norm(k, width), v, **how)

    with patch.object(F, "scaled_dot_product_attention", changed):
        yield


@contextmanager
def z_loss() -> Iterator[None]:
    """In training, 1e-4 x the mean of ln(sum of exp(logits))^2 is added (PaLM, 2022, section 5)."""
    forward = GPT.forward

    def changed(model, idx, targets=None):
        if targets is None or not torch.is_grad_enabled():
            return forward(model, idx, targets)
        logits, _ = forward(model, idx)
        z = logits.logsumexp(-1)
        return None, F.cross_entropy(logits.mT, targets) + 1e-4 * z.square().mean()

    with patch.object(GPT, "forward", changed):
        yield


CHANGES = {"GPT-2": nullcontext, "QK-norm": qk_norm, "z-loss": z_loss}


def compare(
    shape: str, rate: float, seeds: tuple[int, ...] = SEEDS, source: str = TEXT, quick: bool = False
) -> dict[str, list[judge.Curve]]:
    """The three at one rate, reported."""
    found = {}
    for name, change in CHANGES.items():
        variant = {f"{name}, {rate:g}": flags(shape, rate, "adamw", source)}
        with change():
            found |= judge.curves(judge.compare(f"beyond {shape}", variant, seeds, quick))
    judge.report(found, f"GPT-2, {rate:g}")
    return found


def draw(quick: bool, source: str = TEXT) -> Figure:
    figure, both = panels(2)
    for axes, shape in zip(both, SHAPES, strict=True):
        print(f"\n{shape}")
        found = {}
        for rate in RATES:
            found |= compare(shape, rate, SEEDS, source, quick)
        shown = {name: of for name, of in found.items() if "z-loss" not in name}
        judge.plot(axes, shown, TOKENS_A_STEP)  # the z-loss's curves would lie on GPT-2's
        label(axes, shape)
        with qk_norm():
            variants = {f"QK-norm, {rate:g}": flags(shape, rate, "adamw", source) for rate in OWN}
            _, two = judge.tuned(f"beyond {shape}", variants, SEEDS, quick)
        tuned = f"GPT-2, {RATES[0]:g}"
        judge.report({tuned: found[tuned], **two}, tuned)
    return figure
