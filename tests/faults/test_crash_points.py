"""Killed at each operation on a file in turn, and started again: as if nothing had happened."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from test_dead_rank import assert_same, state

import fineweb
from support.runs import checkpoints, write_checkpoint
from test_fineweb import make_texts, write_source
from tiny import TINY_FLAGS, run_here, write_shards

FLAGS = [*TINY_FLAGS, *"--T 8 --total_batch_size 16 --B 2 --vocab_size 100 --max_steps 3".split()]
FLAGS += "--eval_every 2 --val_tokens 16 --sample_every 0 --save_every 1 --keep 2".split()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """No `except Exception` stops it."""


class Killer:
    """Lets `after` operations on the files of a folder happen, and none from then on: what unwinds
    removes no temporary file, as a process that is gone removes none."""

    def __init__(self, folder: Path, after: int):
        self.folder, self.left, self.has_killed = str(folder), after, False

    def hear(self, event: str, args: tuple) -> None:
        is_change = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
        if is_change or (event == "open" and args[2] & WRITES):
            if str(args[0]).startswith(self.folder):
                self.count()

    def count(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.has_killed = True
            raise Killed

    def fsync(self, number: int) -> None:
        """Killed here, only half of the file has been written."""
        try:
            self.count()
        except Killed:
            os.truncate(number, os.fstat(number).st_size // 2)
            raise


killer: Killer | None = None
sys.addaudithook(lambda event, args: killer and killer.hear(event, args))  # Python removes none


@contextmanager
def killed_by(its_killer: Killer) -> Iterator[None]:
    """What is done in another process, which may be killed."""
    global killer
    fsync, getpid = os.fsync, os.getpid
    killer, os.fsync, os.getpid = its_killer, its_killer.fsync, lambda: 10_000_000
    try:
        yield
    except Killed:
        pass
    finally:
        killer, os.fsync, os.getpid = None, fsync, getpid


@pytest.fixture(params=[4, pytest.param(1, marks=pytest.mark.soak)])
def points(request, tmp_path) -> Iterator[tuple[Path, Killer]]:
    """One folder after another, each for a process that is killed one operation (or four) later
    than the one before, until the last of them is not killed."""

    def folders():
        for after in count(0, request.param):
            folder = tmp_path / f"{after}" / "log"
            folder.parent.mkdir()
            killer = Killer(folder, after)
            yield folder, killer
            if not killer.has_killed:
                break
        print(f"{request.node.name}: killed at every {request.param}. of {after} operations")
        assert after > 12

    return folders()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, 500)
    write_shards(folder, 100, split="val")
    return folder


def train(data: Path, log_dir: Path, resume: str) -> None:
    flags = (*FLAGS, "--data_root", str(data), "--log_dir", str(log_dir), "--resume", resume)
    result = run_here(flags, log_dir.parent)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The log_dir of a run that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    train(data, folder / "log", "0")
    return folder / "log"


def assert_as(log_dir: Path, whole: Path) -> None:
    """The same log, checkpoints and settings, and no temporary file."""
    assert (log_dir / "log.txt").read_text() == (whole / "log.txt").read_text()
    assert [step for step, _ in checkpoints(str(log_dir))] == [2, 3]
    assert_same(state(log_dir), state(whole))
    found, expected = (json.loads((d / "settings.json").read_text()) for d in (log_dir, whole))
    changing = {"log_dir": "", "resume": ""}
    assert {**found["settings"], **changing} == {**expected["settings"], **changing}
    assert not list(log_dir.rglob("*.tmp")) and not list(log_dir.rglob("*.moving"))


def test_a_run_with_resume_auto(points, data, whole):
    """From taking the lock to the last save with --keep."""
    for log_dir, killer in points:
        with killed_by(killer):
            train(data, log_dir, "auto")
        train(data, log_dir, "auto")
        assert_as(log_dir, whole)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def earlier_run(log_dir: Path) -> dict[str, bytes]:
    """Files of an earlier run, and one of the user's: name -> bytes."""
    log_dir.mkdir()
    for name in ("log.txt", "settings.json", "model_00007.pt", "model_00008.pt", "mine.txt"):
        (log_dir / name).write_text(f"9 train 1.0 {name}")
    return contents(log_dir)


def test_a_run_that_moves_an_earlier_one_away(points, data, whole):
    """Once the move has begun, --resume auto does not go on with the rest of the earlier run."""
    for log_dir, killer in points:
        before = earlier_run(log_dir)
        with killed_by(killer):
            train(data, log_dir, "0")
        train(data, log_dir, "auto" if any(log_dir.glob("run-*")) else "0")
        assert_as(log_dir, whole)
        [moved] = [path.parent for path in log_dir.glob("run-*/model_00007.pt")]
        assert before == {**contents(moved), "mine.txt": (log_dir / "mine.txt").read_bytes()}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write_source(folder, {"a.jsonl": make_texts(60), "b.jsonl": make_texts(40, seed=1)})


@pytest.fixture(autouse=True)
def with_tiktoken(monkeypatch):
    """gigatoken takes a second to start."""
    monkeypatch.setattr(
        fineweb, "choose_encoder", lambda files: fineweb.Tiktoken(fineweb.get_encoding())
    )


def tokenize(source: Path, out: Path, shard_size: int) -> None:
    fineweb.main(
        ["--source", str(source), "--out", str(out), *f"--shard_size {shard_size}".split()]
    )


def test_fineweb(points, tmp_path, source):
    tokenize(source, tmp_path / "whole", 900)
    for out, killer in points:
        with killed_by(killer):
            tokenize(source, out, 900)
        tokenize(source, out, 900)
        assert contents(out) == contents(tmp_path / "whole")


def test_fineweb_of_a_source_that_is_too_small(points, source, capsys):
    """Its tokens just fill the shard for validation, which is written, and removed again."""
    size = sum(len(tokens) for _, tokens in everything(source))
    for out, killer in points:
        with killed_by(killer), pytest.raises(SystemExit):
            tokenize(source, out, size)
        with pytest.raises(SystemExit):
            tokenize(source, out, size)
        assert capsys.readouterr().err.endswith(f"try --shard_size {size // 10}\n")
        assert not out.exists()


def everything(source: Path):
    files = fineweb.find_files(str(source))
    encode = fineweb.Tiktoken(fineweb.get_encoding())
    return fineweb.encode_in_order(fineweb.read_chunks(files), encode, 1)


def test_a_checkpoint_that_was_written_is_not_the_one_to_remove(tmp_path):
    """Those of later steps were damaged, or the run would have gone on with them."""
    for step in (1, 2, 9):
        write_checkpoint(str(tmp_path), {"step": step})
    for step, left in ((3, [2, 3, 9]), (4, [3, 4, 9])):
        write_checkpoint(str(tmp_path), {"step": step}, keep=2)
        assert [step for step, _ in checkpoints(str(tmp_path))] == left
    write_checkpoint(str(tmp_path), {"step": 5}, keep=1)
    assert [step for step, _ in checkpoints(str(tmp_path))] == [5, 9]
