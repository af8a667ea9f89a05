"""Which settings learn faster: runs of settings x seeds, and how much of it is noise.

Each run is train_gpt2.py itself, in a folder of its own under runs/, with a log.txt that play.ipynb
reads. One that was killed goes on; one that is complete is not run again.
"""

import contextlib
import io
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from train_gpt2 import main

RUNS = Path(__file__).resolve().parent.parent / "runs"
NEVER = "--sample_every 0 --hellaswag_every 0 --keep 1 --resume auto".split()
TINY = "--n_layer 1 --n_head 2 --n_embd 16 --T 16 --B 2 --total_batch_size 32 --max_steps 4".split()
TINY += "--eval_every 2 --val_tokens 64".split()

Curve = np.ndarray  # (points, 2): step and validation loss


def read(log: Path, kind: str = "val") -> Curve:
    """What a log.txt says of one kind: step and value."""
    lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    return np.array([(int(step), float(value)) for step, k, value in lines if k == kind])


def run(name: str, flags: list, quick: bool = False) -> Path:
    """Train with these flags; returns the log. A run with other flags is another one."""
    flags = [*map(str, flags), *NEVER, *(TINY if quick else [])]
    folder = RUNS / f"{name}-{zlib.crc32(' '.join(flags).encode()):08x}"
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    done = folder / "done"
    if not done.exists():
        with contextlib.redirect_stdout(io.StringIO()):
            main([*flags, "--log_dir", str(folder)])
        done.touch()
    return folder / "log.txt"


def compare(
    name: str, variants: dict[str, list], seeds: Iterable[int], quick: bool = False
) -> dict[str, list[Path]]:
    """Variant, which is flags -> the log of each seed."""
    seeds = list(seeds)[:1] if quick else list(seeds)
    return {
        variant: [
            run(f"{name}/{variant}-{seed}", [*flags, "--seed", seed], quick) for seed in seeds
        ]
        for variant, flags in variants.items()
    }


def curves(logs: dict[str, list[Path]]) -> dict[str, list[Curve]]:
    """The validation losses."""
    return {variant: [read(log) for log in of] for variant, of in logs.items()}


def tuned(
    name: str, variants: dict[str, list], seeds: tuple[int, ...], quick: bool = False
) -> tuple[str, dict[str, list[Curve]]]:
    """The best variant: the two that are best with the first seed, and of these the one whose mean
    over all seeds is lower. One seed alone may be lucky. Also returns the curves of both."""
    first = curves(compare(name, variants, seeds[:1], quick))
    print("   ".join(f"{variant}: {last(of)[0]:.3f}" for variant, of in first.items()))
    two = sorted(first, key=lambda variant: last(first[variant])[0])[:2]
    found = curves(compare(name, {variant: variants[variant] for variant in two}, seeds, quick))
    return min(found, key=lambda variant: np.mean(last(found[variant]))), found


def steps_to(curve: Curve, loss: float) -> float:
    """The step at which the curve first is as low as `loss`, between two points; else infinity."""
    for (step, before), (next_step, after) in zip(curve, curve[1:], strict=False):
        if after <= loss < before:
            return step + (next_step - step) * (before - loss) / (before - after)
    return np.inf


def spread(values: Iterable[float]) -> float:
    """From the smallest to the largest."""
    return float(np.ptp(list(values)))


def report(found: dict[str, list[Curve]], baseline: str) -> None:
    """Print, for each variant: the last loss; how far the seeds are apart; by how much it differs
    from the baseline of the same seed; the tokens to that one's last loss, as a share of its own.

    A difference that is smaller than the spread of the seeds is called that.
    """
    print(f"{'':<24} last loss  spread  difference, seed by seed   tokens to the same loss")
    for variant, curves in found.items():
        pairs = list(zip(curves, found[baseline], strict=True))
        losses, differences = last(curves), [float(c[-1, 1] - b[-1, 1]) for c, b in pairs]
        noise = max(spread(losses), spread(last(found[baseline])))
        is_small = variant != baseline and bool(abs(np.mean(differences)) < noise)
        shares = [steps_to(curve, other[-1, 1]) / curve[-1, 0] for curve, other in pairs]
        print(
            f"{variant:<24} {np.mean(losses):9.3f} {spread(losses):7.3f}  "
            + " ".join(f"{d:+.4f}" for d in differences)
            + f"   {min(shares):.2f} to {max(shares):.2f}"
            + "  (less than the spread)" * is_small
        )


def last(curves: list[Curve]) -> list[float]:
    return [float(curve[-1, 1]) for curve in curves]


def plot(axes: Axes, found: dict[str, list[Curve]], tokens_a_step: int) -> None:
    """The mean of each variant, and a band from its best seed to its worst."""
    for variant, of in found.items():
        tokens, losses = of[0][:, 0] * tokens_a_step, np.array([curve[:, 1] for curve in of])
        name = variant.replace("adamw", "AdamW").replace("muon", "Muon")
        (line,) = axes.plot(tokens, losses.mean(axis=0), label=name)
        colour, (low, high) = line.get_color(), (losses.min(axis=0), losses.max(axis=0))
        axes.fill_between(tokens, low, high, fc=(colour, 0.08), ec=(colour, 0.6), lw=0.7)
    axes.set(xlabel="tokens", ylabel="validation loss (nats)")
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend()
