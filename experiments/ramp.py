"""Lesson 68: should the batch begin small, and do the gradients say when it may grow?"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import torch
from matplotlib.figure import Figure

import train_gpt2
from experiments import judge
from experiments.drawing import panels
from experiments.letters import SEEDS, STEPS, TOKENS_A_STEP, flags, shards
from experiments.small import TEXT, T, small_model
from support.compute import start_compute
from train_gpt2 import GPT, DataLoaderLite, get_lr, train_step

ROWS = 64  # whose gradients are compared
LOOK = (0, 5, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 999)
WIDTHS = {"2 layers of width 64": (2, 64), "4 layers of width 128": (4, 128)}
PIECE, PIECES = 128, 8  # bytes of the smallest batch, and how many of these the largest has
RATES = 2e-3, 4e-3, 8e-3, 16e-3, 32e-3
SHARE = 0.2  # of all bytes are read while the batch grows


# ---------- How much of a gradient is chance --------------------------------------------


def row_gradients(model: GPT, loader: DataLoaderLite) -> torch.Tensor:
    """(ROWS, parameters): the gradient of each of ROWS rows from all over the loader's text."""
    found = []
    for i in range(ROWS):
        _, loss = model(*loader.rows(i * (loader.num_tokens // ROWS), 1))
        found.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
        )
    return torch.stack(found)


def agreement(gradients: torch.Tensor) -> tuple[float, float]:
    """Mean cosine of two rows' gradients; and the rows in a batch whose gradient is as much chance
    as signal, the simple noise scale (McCandlish et al. 2018, appendix A.1).
    """
    rows, mean = len(gradients), gradients.mean(0)
    of_one, of_mean = gradients.square().sum(1).mean(), mean.square().sum()
    noise = (of_one - of_mean) * rows / (rows - 1)
    signal = of_mean - noise / rows  # the mean of the rows holds a share of the noise
    unit = torch.nn.functional.normalize(gradients)
    cosine = (unit.sum(0).square().sum() - rows) / (rows * (rows - 1))
    return cosine.item(), (noise / signal).item()


def watch(n_layer: int, n_embd: int, source: str, look: tuple[int, ...]) -> list:
    """What `agreement` finds at these steps, on text that is not trained on."""
    model = small_model(n_layer=n_layer, n_head=n_embd // 32, n_embd=n_embd, vocab_size=256)
    loader, unseen = (
        DataLoaderLite(16, T, 0, 1, split, str(shards(source)), 256) for split in ("train", "val")
    )
    s = SimpleNamespace(
        max_lr=4e-3, min_lr=4e-4, warmup_steps=50, max_steps=1000, schedule="cosine"
    )
    optimizer = model.configure_optimizers(0.1, s.max_lr, "cpu")
    compute, found = start_compute("cpu", "float32"), []
    for step in range(look[-1] + 1):
        if step in look:
            found.append(agreement(row_gradients(model, unseen)))
        train_step(model, optimizer, loader, compute, 1, get_lr(step, s), 1.0)
    return found


# ---------- A batch that grows ----------------------------------------------------------


def pieces(position: int) -> int:
    """The size of the next batch, in pieces, where so many bytes are read."""
    share = position / (SHARE * STEPS * TOKENS_A_STEP)
    return min(PIECES, 1 + int(share * PIECES))


@contextmanager
def growing() -> Iterator[None]:
    """A step of the run is a piece, so that the rate and the curve go by bytes. The first of a
    batch makes the update, with all pieces of the batch; at the others nothing is left to do."""
    left, result = 0, None

    def step(model, optimizer, loader, compute, micro_steps, rate, clip):
        nonlocal left, result
        if loader.position == 0 or left == 0:
            left = pieces(loader.position)
            result = train_step(model, optimizer, loader, compute, left, rate, clip)
        left -= 1
        return result

    with patch.object(train_gpt2, "train_step", step):
        yield


def try_ramp(shape: str, quick: bool, source: str) -> None:
    """The ramp against two constant batches: the large one, and one with as many updates."""
    same, steps = TOKENS_A_STEP * 3 // 4, PIECES * STEPS
    piece = f"--B {PIECE // T} --total_batch_size {PIECE} --max_steps {steps}"
    sizes = {
        f"{TOKENS_A_STEP}": "",
        f"{same}": f"--B 12 --total_batch_size {same} --max_steps 667 --eval_every 667",
        "grows": f"{piece} --eval_every {steps // 10}",
    }
    found, baseline = {}, ""
    for name, size in sizes.items():
        variants = {
            f"{name} at {rate:g}": [*flags(shape, rate, "adamw", source), *size.split()]
            for rate in RATES
        }
        with growing() if name == "grows" else nullcontext():
            variant, two = judge.tuned(f"ramp {shape}", variants, SEEDS, quick)
        baseline = baseline or variant
        found |= two
    judge.report(found, baseline)


def draw(quick: bool, source: str = TEXT) -> Figure:
    figure, (left, right) = panels(2)
    look = LOOK[:2] if quick else LOOK
    for shape, (n_layer, n_embd) in WIDTHS.items():
        found = watch(n_layer, n_embd, source, look)
        print(f"\n{shape}: bytes read, cosine of two rows' gradients, noise scale in bytes")
        for step, (cosine, scale) in zip(look, found, strict=True):
            print(f"{step * TOKENS_A_STEP:9,} {cosine:6.3f} {scale * T:8,.0f}")
        bytes_read = [max(step, 1) * TOKENS_A_STEP for step in look]
        left.plot(bytes_read, [cosine for cosine, _ in found], "o-", label=shape)
        right.plot(bytes_read, [scale * T for _, scale in found], "o-", label=shape)
        try_ramp(shape, quick, source)
    left.set(ylabel="cosine of two rows' gradients", ylim=(0, 1))
    right.set(ylabel="noise scale, bytes", yscale="log")
    right.set_yticks([30, 100, 300, 1000, 3000], ["30", "100", "300", "1,000", "3,000"])
    for axes in (left, right):
        axes.set(xlabel="bytes read", xscale="log")
        axes.set_xticks([1e3, 1e4, 1e5, 1e6], ["1k", "10k", "100k", "1M"])
        axes.minorticks_off()
    left.legend(loc="upper right")
    right.legend(loc="upper left")
    return figure
