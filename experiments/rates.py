"""Lesson 63: how much higher may the rate be, for a small model and for a larger one?"""

from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import panels
from experiments.small import TEXT

BASE, TIMES = 2e-3, (1, 2, 3, 6, 10)  # the small size's rate
FLAGS = f"--data_root {TEXT} --B 8 --total_batch_size 512 --max_steps 400 --eval_every 50"
FLAGS += " --val_tokens 16384 --device cpu"
SHAPES = {
    "2 layers of width 64": ("--n_layer 2 --n_head 2 --n_embd 64", (1, 2, 3)),
    "4 layers of width 128": ("--n_layer 4 --n_head 4 --n_embd 128", (1,)),
}


def draw(quick: bool) -> Figure:
    figure, (axes,) = panels()
    for shape, (flags, seeds) in SHAPES.items():
        variants = {
            f"{times} x {BASE}": [*f"{FLAGS} {flags}".split(), "--max_lr", BASE * times]
            for times in TIMES
        }
        print(shape)
        found = judge.curves(judge.compare(f"rates {shape}", variants, seeds, quick))
        judge.report(found, f"1 x {BASE}")
        losses = [judge.last(curves) for curves in found.values()]
        (line,) = axes.plot(TIMES, [sum(of) / len(of) for of in losses], "o-", label=shape)
        low, high = [min(of) for of in losses], [max(of) for of in losses]
        axes.fill_between(TIMES, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    axes.set(xlabel=f"peak rate, in multiples of {BASE}", xscale="log")
    axes.set(ylabel="last validation loss (nats)")
    axes.set_xticks(TIMES, [str(times) for times in TIMES])
    axes.minorticks_off()
    axes.legend()
    return figure
