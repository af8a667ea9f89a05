"""What is on disk: shards of tokens, or a text file, as uint16 arrays."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from threading import Thread

import numpy as np

from support.cli import UserError
from support.files import write_whole
from support.tokenizer import get_encoding

MANIFEST = "SHA256SUMS"  # beside the shards, in the format of sha256sum: -c checks it


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


# ---------- The manifest: is each shard what was written? -------------------------------


def sha256(path: Path) -> str:
    """Of a file's bytes, as 64 hexadecimal digits; 0.13 s for a shard where the CPU has SHA-NI."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):  # outside the GIL
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, str]:
    """File name -> sha256; empty where there is no manifest, as with shards from elsewhere.

    Raises UserError if a line of it is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    sums = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        match = re.fullmatch(rb"([0-9a-f]{64}) [ *]([^/\x00]+)", line)
        if not match:
            raise UserError(f"{path}, line {number} is not as sha256sum writes it: copy it again")
        sums[match[2].decode(errors="replace")] = match[1].decode()
    return sums


def add_to_manifest(path: Path) -> None:
    sums = {**read_manifest(path.parent), path.name: sha256(path)}
    write_whole(path.parent / MANIFEST, "".join(f"{sums[n]}  {n}\n" for n in sorted(sums)))


def verify(folder: Path, progress: Callable[[Collection], Iterable] = iter) -> int:
    """How many files the folder's manifest lists, after comparing each with it; 0 without one.

    `progress` wraps the loop over their names. Raises UserError if any is missing or differs.
    """
    sums = read_manifest(folder)
    bad = [
        name
        for name in progress(sums)
        if not (folder / name).is_file() or sha256(folder / name) != sums[name]
    ]
    if bad:
        raise UserError(
            f"{', '.join(bad)} in {folder}: missing, or not what was written (see {MANIFEST});"
            " copy again from where the folder is whole, or delete it and run python fineweb.py"
        )
    return len(sums)


def verify_in_background(folder: Path, tell: Callable[[str], None]) -> None:
    """verify, in a thread of its own; `tell` is called with what is wrong, if anything."""

    def check() -> None:
        try:
            verify(folder)
        except UserError as error:
            tell(str(error))

    Thread(target=check, daemon=True).start()
