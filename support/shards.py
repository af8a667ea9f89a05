"""What is on disk: shards of tokens, or a text file, as uint16 arrays."""

from pathlib import Path

import numpy as np

from support.cli import UserError
from support.tokenizer import get_encoding


def load_shard(path: Path) -> np.ndarray:
    """The uint16 tokens of a shard, memory-mapped: fineweb.py's .npy or llm.c's .bin.

    Raises UserError when the file is empty, cut short, or of another type.
    """
    redo = "write it again with python fineweb.py"
    if path.suffix == ".bin":
        header = np.fromfile(path, dtype="<i4", count=256)
        if len(header) < 256 or header[0] != 20240520 or header[1] != 1:
            raise UserError(f"{path} has no header of an llm.c shard; {redo}")
        tokens = np.memmap(path, dtype="<u2", mode="r", offset=1024)
        if len(tokens) != header[2]:
            raise UserError(f"{path} has {len(tokens)} tokens, its header says {header[2]}; {redo}")
        return tokens
    try:
        tokens = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a whole .npy file ({error}); {redo}") from error
    if tokens.dtype != np.uint16 or tokens.ndim != 1 or len(tokens) == 0:
        found = f"{tokens.dtype} of shape {tokens.shape}"
        raise UserError(f"{path} holds {found}, expected uint16 of shape (tokens,); {redo}")
    return tokens


def load_split(data_root: str, split: str) -> list[np.ndarray]:
    """The shards of `split` ("train" or "val") in a folder; of a text file, 9/10 or the last 1/10.

    Raises UserError when there is nothing to read.
    """
    root = Path(data_root)
    if root.is_file():
        text = root.read_text(encoding="utf-8")
        tokens = np.array(get_encoding().encode_ordinary(text), dtype=np.uint16)
        tenth = len(tokens) // 10
        shards = [tokens[:-tenth] if split == "train" else tokens[-tenth:]]
    else:
        names = sorted(p for p in root.glob(f"*{split}*") if p.suffix in (".npy", ".bin"))
        shards = [load_shard(path) for path in names]
    if sum(map(len, shards)) < 2:
        raise UserError(
            f"no {split} tokens in {data_root}: expected a text file, or a folder with"
            f" edufineweb_{split}_*.npy shards; write them with python fineweb.py"
        )
    return shards
