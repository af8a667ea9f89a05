"""Lesson 61: the same settings with three seeds: how large a difference is luck?"""

from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import INK, panels
from experiments.small import TEXT

TOKENS_A_STEP, SEEDS = 128, (1, 2, 3)
FLAGS = "--n_layer 1 --n_head 1 --n_embd 32 --T 32 --B 4 --max_steps 50 --eval_every 10"
FLAGS += " --val_tokens 1024 --device cpu"


def draw(quick: bool) -> Figure:
    flags = [*FLAGS.split(), "--data_root", TEXT, "--total_batch_size", TOKENS_A_STEP]
    variants = {
        "rate 0.001": [*flags, "--max_lr", 1e-3],
        "the same without decay": [*flags, "--max_lr", 1e-3, "--weight_decay", 0],
        "rate 0.003": [*flags, "--max_lr", 3e-3],
    }
    found = judge.curves(judge.compare("luck", variants, SEEDS, quick))
    judge.report(found, "rate 0.001")
    figure, (left, right) = panels(2, width_ratios=(3, 2))
    judge.plot(left, found, TOKENS_A_STEP)
    left.lines[1].set_linestyle("--")  # it lies on the first
    left.legend(handlelength=1.5)
    plain, undecayed = (judge.last(found[name]) for name in list(variants)[:2])
    for seed, with_decay, without in zip(SEEDS, plain, undecayed, strict=False):
        right.plot(["rate 0.001", "no decay"], [with_decay, without], "o-", color=INK)
        right.annotate(f"seed {seed}", (1, without), (6, -4), textcoords="offset points")
    right.set(ylabel="last validation loss (nats)")
    right.margins(x=0.35)
    return figure
