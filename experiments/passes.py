"""Lesson 36: what does each pass over the logits cost?"""

import time

import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, PAPER, PURPLE, panels

ROWS, WIDTH, VOCAB = 256, 128, 50304  # a chunk of the small model: 51 MB of fp32 logits
BEFORE, AFTER = ("log_softmax", "exp_"), ("amax", "softmax", "amax")
SHADES = {"log_softmax": PURPLE, "exp_": ORANGE, "amax": GREEN, "softmax": BLUE}


def measure(quick: bool) -> dict[str, float]:
    """Milliseconds of one thread for each operation, the best of several turns."""
    vocab, turns = (503, 1) if quick else (VOCAB, 15)
    x, weight = torch.randn(ROWS, WIDTH), 0.02 * torch.randn(vocab, WIDTH)
    logits, buffer = x @ weight.t(), torch.empty(ROWS, vocab)
    operations = {
        "copy_": lambda: buffer.copy_(logits),
        "amax": lambda: logits.amax(1),
        "log_softmax": lambda: torch.log_softmax(buffer, 1, out=buffer),
        "exp_": lambda: buffer.exp_(),
        "softmax": lambda: torch.softmax(buffer, 1, out=buffer),
        "mm": lambda: torch.mm(x, weight.t(), out=buffer),
    }
    best = dict.fromkeys(operations, float("inf"))
    for _ in range(turns):
        for name, operation in operations.items():
            buffer.copy_(logits)
            start = time.process_time()
            operation()
            best[name] = min(best[name], 1000 * (time.process_time() - start))
    return best


def draw(quick: bool) -> Figure:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = measure(quick)
    torch.set_num_threads(threads)
    for name, ms in best.items():
        print(f"{name:<12} {ms:5.1f} ms")
    figure, (axes,) = panels(height=2.0)
    for row, (label, names) in enumerate(((" before", BEFORE), (" this lesson", AFTER))):
        left = 0.0
        for name in names:
            axes.barh(label, best[name], left=left, color=SHADES[name], edgecolor=PAPER, height=0.6)
            place = (left + best[name] / 2, row)
            axes.annotate(name, place, color=PAPER, ha="center", va="center", size=9)
            left += best[name]
        axes.annotate(
            f"{left:.1f} ms", (left, row), (5, 0), textcoords="offset points", va="center"
        )
        print(f"{label.strip():<12} {left:5.1f} ms")
    axes.set(xlabel="ms for 256 rows of 50,304 logits, one thread")
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    return figure
