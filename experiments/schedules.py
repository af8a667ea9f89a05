"""Lesson 63: a cosine to a tenth, to zero, a straight line, or constant and then down?"""

from dataclasses import replace

from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import panels
from experiments.small import TEXT
from train_gpt2 import Settings, get_lr

RATE, STEPS, TOKENS_A_STEP = 6e-3, 400, 512
FLAGS = f"--B 8 --total_batch_size {TOKENS_A_STEP} --max_steps {STEPS} --eval_every 50"
FLAGS += " --val_tokens 16384 --device cpu --n_layer 2 --n_head 2 --n_embd 64"
WAYS = {  # schedule, and how far down
    "cosine to a tenth": ("cosine", 0.1),
    "cosine to 0": ("cosine", 0),
    "linear to 0": ("linear", 0),
    "warm up, stay, decay": ("wsd", 0),
}


def draw(quick: bool) -> Figure:
    flags = ["--data_root", TEXT, *FLAGS.split(), "--max_lr", RATE]
    variants = {
        name: [*flags, "--schedule", schedule, "--min_lr", RATE * share]
        for name, (schedule, share) in WAYS.items()
    }
    found = judge.curves(judge.compare("schedules", variants, (1, 2, 3), quick))
    judge.report(found, "cosine to a tenth")
    figure, (left, right) = panels(2)
    for name, (schedule, share) in WAYS.items():
        rates = dict(max_lr=RATE, min_lr=RATE * share, schedule=schedule)
        s = replace(Settings(), max_steps=STEPS, warmup_steps=20, **rates)
        left.plot([get_lr(i, s) for i in range(STEPS + 1)], label=name)
    left.set(xlabel="step", ylabel="rate", ylim=(0, 0.0105))
    left.set_yticks([0, 0.002, 0.004, 0.006])
    judge.plot(right, found, TOKENS_A_STEP)
    right.set(ylim=(5.9, 7.1))
    left.legend(loc="upper right")
    right.legend(loc="lower left", fontsize=9)
    return figure
