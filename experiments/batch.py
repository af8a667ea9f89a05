"""Lesson 65: the batch: more steps or larger ones, at equal tokens and each at its own rate?"""

from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import panels
from experiments.letters import STEPS, TOKENS_A_STEP, flags
from experiments.small import TEXT

SHAPE, TOKENS = "2 layers of width 64", STEPS * TOKENS_A_STEP
RATES = 1e-3, 2e-3, 4e-3, 8e-3, 16e-3
BATCHES = 256, 512, 1024, 2048, 4096


def draw(quick: bool, source: str = TEXT) -> Figure:
    figure, (axes,) = panels()
    for batch in BATCHES:
        steps = TOKENS // batch
        size = ["--B", batch // 64, "--total_batch_size", batch]
        size += ["--max_steps", steps, "--eval_every", steps]
        variants = {
            f"{batch} at {rate:g}": [*flags(SHAPE, rate, "adamw", source), *size] for rate in RATES
        }
        found = judge.curves(judge.compare("batch", variants, [1], quick))
        losses = [judge.last(curves)[0] for curves in found.values()]
        axes.plot(RATES, losses, "o-", label=f"{batch:,}: {steps:,} steps")
        print(
            f"{batch:5} bytes a step, {steps:5} steps:",
            "  ".join(f"{rate:g} {loss:.3f}" for rate, loss in zip(RATES, losses, strict=True)),
        )
    axes.set(xlabel="rate, in thousandths", ylabel="last validation loss (nats)", xscale="log")
    axes.set_xticks(RATES, [f"{1000 * rate:g}" for rate in RATES])
    axes.minorticks_off()
    axes.set(ylim=(2.1, 3.5))
    axes.legend(title="bytes a step", loc="upper center", ncols=2)
    return figure
