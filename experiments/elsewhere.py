"""Lesson 67: does what saves tokens on plays save them on other texts?"""

import os
import random
from pathlib import Path

from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import panels
from experiments.letters import BYTES, SEEDS, TOKENS_A_STEP, flags, label
from experiments.muon import RATES
from experiments.small import TEXT
from support.files import write_whole

SHAPE = "2 layers of width 64"


def code() -> str:
    """A file with modules of Python's standard library, which every reader has, in an order of
    chance: by name, what is read first and last would be about something else."""
    judge.RUNS.mkdir(exist_ok=True)
    path, text = judge.RUNS / "python.txt", ""
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    random.Random(0).shuffle(modules)
    for module in modules:
        text += module.read_text(encoding="utf-8")
    write_whole(path, text[:BYTES])
    return str(path)


def compare(source: str, quick: bool) -> dict[str, list[judge.Curve]]:
    """Each optimizer at its best rate for this text."""
    found, best = {}, []
    for optimizer, rates in RATES.items():
        variants = {
            f"{optimizer} {rate:g}": flags(SHAPE, rate, optimizer, source) for rate in rates
        }
        name, two = judge.tuned(f"muon {SHAPE}", variants, SEEDS, quick)
        best.append(name)
        found |= two
    judge.report(found, best[0])
    return {variant: found[variant] for variant in best}


def draw(quick: bool, source: str | None = None) -> Figure:
    figure, both = panels(2)
    texts = {"plays": TEXT, Path(source).stem if source else "Python's library": source or code()}
    for axes, (title, source) in zip(both, texts.items(), strict=True):
        print(title)
        judge.plot(axes, compare(source, quick), TOKENS_A_STEP)
        label(axes, title)
    return figure
