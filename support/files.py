"""Files and folders that are written whole, or not at all; only log.txt grows line by line."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from support.cli import UserError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name only when it is complete and on disk.

    Until then it is PATH.PID.tmp, which no other process writes to. If the block raises, it is
    removed, and any earlier file of that name stays.

    Raises UserError where the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with one_line_when_not_writable(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def one_line_when_not_writable(path: Path) -> Iterator[None]:
    """OSError -> UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}): make room, or write elsewhere"
        ) from error


def make_folder(path: Path) -> None:
    """With its parents, if it is not there yet. Raises UserError if that is not possible."""
    with one_line_when_not_writable(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Text is written as UTF-8."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write files to, which becomes `path` only when all of them are on disk.

    `path` must be absent or an empty folder. Until then it is PATH.PID.tmp; if the block raises,
    that is removed.
    """
    path = path.resolve()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        make_folder(temporary)
        yield temporary
        for written in temporary.iterdir():
            with written.open("rb+") as file:
                os.fsync(file.fileno())
        if path.exists():
            path.rmdir()  # Windows does not rename to a folder that is there
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def free_name(path: Path) -> Path:
    """path, or, where that exists, with -2, -3, ... before its ending."""
    names = (path.with_stem(f"{path.stem}-{n}") for n in count(2))
    return next(p for p in chain([path], names) if not p.exists())
