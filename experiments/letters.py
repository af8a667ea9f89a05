"""What comparisons of optimizers share: a text byte by byte, and two sizes of model.

With 256 ids nearly all weights are in the blocks' matrices, as are two thirds of the 124M model's.
With 50,304 ids a model that trains in seconds would be nearly all embedding.
"""

import zlib
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from experiments.judge import RUNS
from experiments.small import TEXT
from fineweb import find_files, read_chunks
from support.cli import UserError
from support.files import whole_file

TOKENS_A_STEP, STEPS, SEEDS = 1024, 500, (1, 2, 3)
BYTES = 1_200_000  # of a text, at most; a run reads 512,000, and 65,536 to validate
FEWEST = 700_000
SHAPES = {
    "2 layers of width 64": "--n_layer 2 --n_head 2 --n_embd 64".split(),
    "4 layers of width 128": "--n_layer 4 --n_head 4 --n_embd 128".split(),
}


def label(axes: Axes, shape: str) -> None:
    """Of a panel with the curves of one shape."""
    axes.set(title=shape, xlabel="bytes", ylim=(1.8, 3))
    axes.set_xticks([0, 200_000, 400_000], ["0", "200,000", "400,000"])


def read(source: str) -> bytes:
    """The beginning of a text file, or of the documents in a folder of .parquet and .jsonl files.

    Raises UserError if there is too little of it.
    """
    if Path(source).is_file():
        text = Path(source).read_bytes()[:BYTES]
    else:
        text = b""
        for chunk in read_chunks(find_files(source)):
            text += "".join(f"{document}\n\n" for document in chunk.texts).encode()
            if len(text) >= BYTES:
                break
    if len(text) < FEWEST:
        raise UserError(f"--source {source} has {len(text):,} bytes, expected {FEWEST:,} or more")
    return text[:BYTES]


@cache
def shards(source: str) -> Path:
    """A text as two shards of bytes; the last tenth is for validation."""
    text = read(source)
    data = np.frombuffer(text, dtype=np.uint8).astype(np.uint16)
    name = f"{Path(source).stem}-{zlib.crc32(text):08x}"  # another text is never another's runs
    folder, train = RUNS / "letters" / name, len(data) * 9 // 10
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train_000001", data[:train]), ("val_000000", data[train:])):
        with whole_file(folder / f"letters_{name}.npy") as file:
            np.save(file, part)
    return folder


def flags(shape: str, rate: float, optimizer: str = "adamw", source: str = TEXT) -> list:
    """Of a run of 512,000 bytes, with the paper's schedule."""
    run = f"--vocab_size 256 --shuffle 0 --T 64 --B 16 --total_batch_size {TOKENS_A_STEP}"
    run += f" --max_steps {STEPS} --eval_every 50 --val_tokens 65536 --device cpu --dtype float32"
    rates = ["--optimizer", optimizer, "--max_lr", rate]
    return ["--data_root", shards(source), *run.split(), *SHAPES[shape], *rates]
