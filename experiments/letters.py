"""What comparisons of optimizers share: input.txt byte by byte, and two sizes of model.

With 256 ids nearly all weights are in the blocks' matrices, as are two thirds of the 124M model's.
With 50,304 ids a model that trains in seconds would be nearly all embedding.
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.judge import RUNS
from experiments.small import TEXT
from support.files import whole_file

TOKENS_A_STEP, STEPS, SEEDS = 1024, 500, (1, 2, 3)
SHAPES = {
    "2 layers of width 64": "--n_layer 2 --n_head 2 --n_embd 64".split(),
    "4 layers of width 128": "--n_layer 4 --n_head 4 --n_embd 128".split(),
}


def label(axes: Axes, shape: str) -> None:
    """Of a panel with the curves of one shape."""
    axes.set(title=shape, xlabel="bytes", ylim=(1.8, 3))
    axes.set_xticks([0, 200_000, 400_000], ["0", "200,000", "400,000"])


def shards() -> Path:
    """input.txt as two shards of bytes; the last tenth is for validation."""
    data = np.frombuffer(Path(TEXT).read_bytes(), dtype=np.uint8).astype(np.uint16)
    folder, train = RUNS / "letters", len(data) * 9 // 10
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train_000001", data[:train]), ("val_000000", data[train:])):
        with whole_file(folder / f"letters_{name}.npy") as file:
            np.save(file, part)
    return folder


def flags(shape: str, rate: float, optimizer: str = "adamw") -> list:
    """Of a run of 512,000 bytes, with the paper's schedule."""
    run = f"--vocab_size 256 --shuffle 0 --T 64 --B 16 --total_batch_size {TOKENS_A_STEP}"
    run += f" --max_steps {STEPS} --eval_every 50 --val_tokens 65536 --device cpu --dtype float32"
    rates = ["--optimizer", optimizer, "--max_lr", rate]
    return ["--data_root", shards(), *run.split(), *SHAPES[shape], *rates]
