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
SPLITS = ("train", "val")
MIN_TEXT = 20  # tokens, of which the last tenth is for validation


def load_shard(path: Path) -> np.ndarray:
    """The uint16 tokens of a shard, memory-mapped: fineweb.py's .npy or llm.c's .bin.

    Raises UserError when the file is empty, cut short, or of another type.
    """
    redo = "write it again with python fineweb.py"
    if not path.is_file():
        raise UserError(f"{path} is a broken link, a folder or a pipe, not a file; {redo}")
    size = path.stat().st_size
    if path.suffix == ".bin":
        header = np.fromfile(path, dtype="<i4", count=256)
        if len(header) < 256 or header[0] != 20240520 or header[1] != 1:
            raise UserError(f"{path} has no header of an llm.c shard; {redo}")
        found = f"{(size - 1024) / 2:g} tokens"
        if size != 1024 + 2 * int(header[2]):
            raise UserError(f"{path} has {found}, its header says {header[2]}; {redo}")
        if header[2] == 0:
            raise UserError(f"{path} has {found}, expected one or more; {redo}")
        return np.memmap(path, dtype="<u2", mode="r", offset=1024)
    try:
        tokens = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever numpy's parser of headers raises
        raise UserError(f"{path} is not a whole .npy file ({error!r:.99}); {redo}") from error
    if tokens.dtype != np.uint16 or tokens.ndim != 1 or len(tokens) == 0:
        found = f"{tokens.dtype} of shape {tokens.shape}"
        raise UserError(f"{path} holds {found}, expected uint16 of shape (tokens,); {redo}")
    if size != tokens.offset + tokens.nbytes:
        raise UserError(f"{path} has {size} bytes, its header says {len(tokens)} tokens; {redo}")
    return tokens


def split_of(path: Path) -> str | None:
    """Whichever of train and val is a word of the name, as in edufineweb_train_000001.npy.

    Where neither is, it may also be a part of a word. Raises UserError if both are there.
    """
    words = re.findall("[A-Za-z]+", path.stem)
    found = [s for s in SPLITS if s in words] or [s for s in SPLITS if s in path.stem]
    if len(found) > 1:
        raise UserError(
            f"{path} could be for training or for validation:"
            " expected either train or val in its name, rename it"
        )
    return found[0] if found else None


def load_text(path: Path) -> np.ndarray:
    """The uint16 tokens of a text in UTF-8.

    Raises UserError if there is no such text, or too little of it to train and to validate.
    """
    expected = "expected --data_root to be a text in UTF-8, or a folder of shards"
    if not path.exists():
        raise UserError(f"{path} does not exist: {expected} (python fineweb.py writes them)")
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder: {expected}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} at offset {error.start}"
        raise UserError(f"{path} is not UTF-8 ({found}): {expected}") from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {expected}") from error
    tokens = np.array(get_encoding().encode_ordinary(text), dtype=np.uint16)
    if len(tokens) < MIN_TEXT:
        raise UserError(
            f"{path} has {len(tokens)} tokens, expected {MIN_TEXT} or more:"
            " nine tenths to train on, one to validate: give --data_root a longer text"
        )
    return tokens


def load_split(data_root: str, split: str) -> list[np.ndarray]:
    """The shards of `split` ("train" or "val") in a folder; of a text file, 9/10 or the last 1/10.

    Raises UserError when there is nothing to read.
    """
    root = Path(data_root)
    if data_root == "input.txt" and not root.exists():
        root = Path(__file__).parents[1] / data_root  # the project's, from wherever it is run
    if not root.is_dir():
        tokens = load_text(root)
        tenth = len(tokens) // 10
        return [tokens[:-tenth] if split == "train" else tokens[-tenth:]]
    files = sorted(path for path in root.iterdir() if path.suffix in (".npy", ".bin"))
    shards = [load_shard(path) for path in files if split_of(path) == split]
    if sum(map(len, shards)) < 2:
        texts = "; for a text, give --data_root the file itself" if any(root.glob("*.txt")) else ""
        raise UserError(
            f"no {split} tokens in {data_root}: expected a text file, or a folder with"
            f" edufineweb_{split}_*.npy shards; write them with python fineweb.py{texts}"
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
    if not path.is_file():
        raise UserError(f"{path} is not a file: delete it")
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


def is_intact(path: Path, expected: str) -> bool:
    try:
        return path.is_file() and sha256(path) == expected
    except OSError:  # no right to read it, or a bad sector
        return False


def verify(folder: Path, progress: Callable[[Collection], Iterable] = iter) -> int:
    """How many files the folder's manifest lists, after comparing each with it; 0 without one.

    `progress` wraps the loop over their names. Raises UserError if any is missing or differs.
    """
    sums = read_manifest(folder)
    bad = [name for name in progress(sums) if not is_intact(folder / name, sums[name])]
    if bad:
        raise UserError(not_as_written(folder, bad))
    return len(sums)


def not_as_written(folder: Path, names: list[str]) -> str:
    return (
        f"{', '.join(names)} in {folder}: missing, or not what was written (see {MANIFEST});"
        " restore it from a copy, or delete the folder and run python fineweb.py"
    )


def verify_in_background(folder: Path, tell: Callable[[str], None]) -> None:
    """verify, in a thread of its own, up to the first file that differs: `tell` is called with what
    is wrong, if anything."""

    def check() -> None:
        try:
            for name, expected in read_manifest(folder).items():
                if not is_intact(folder / name, expected):
                    return tell(not_as_written(folder, [name]))
        except UserError as error:
            tell(str(error))

    Thread(target=check, daemon=True).start()
