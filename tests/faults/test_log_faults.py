"""log.txt and settings.json that a disk or a person has changed: a run goes on beside them."""

import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from test_data_faults import MUTATORS, seconds

from support.cli import UserError
from support.runs import Log

RUN = {"settings": {"B": 4, "data_root": "naïve.txt"}}
LAST = 30  # the step of the checkpoint that the run goes on from


@pytest.fixture
def log_dir(tmp_path) -> Path:
    """Of a run of 40 steps."""
    log = Log(str(tmp_path / "log"), RUN)
    for step in range(40):
        log.write(step, "train", 10 / (step + 1))
        if step % 10 == 0:
            log.write(step, "val", 11 / (step + 1))
    return log.path.parent


def go_on(log_dir: Path) -> list[bytes]:
    """The lines of log.txt after one more step."""
    with seconds(5):
        Log(str(log_dir), RUN, first_step=LAST).write(LAST, "train", 0.5)
    return (log_dir / "log.txt").read_bytes().split(b"\n")


def log_mutations(log_dir: Path, seeds: range) -> Counter:
    """How a run goes on with a log.txt that is not what it was: "right", or without the lines that
    are not whole, or with "other" numbers in it: a digit that changed is a number, too."""
    path, ends = log_dir / "log.txt", Counter()
    original = path.read_bytes()
    expected = go_on(log_dir)
    for seed in seeds:
        rng = Random(seed)
        mutate = rng.choice(MUTATORS)
        text = mutate(original, rng)
        path.write_bytes(text)
        for copy in log_dir.glob("log_before*"):
            copy.unlink()
        lines = go_on(log_dir)
        case = f"{mutate.__name__}, seed {seed}"
        assert set(expected) & set(text.split(b"\n")) - {b""} <= set(lines), case  # none is lost
        assert lines[-2:] == [b"30 train 0.500000", b""], case
        copies = [copy.read_bytes() for copy in log_dir.glob("log_before*")]
        assert copies == [text] or text + b"30 train 0.500000\n" == path.read_bytes(), case
        changed = set(lines) - set(expected)
        ends["right" if lines == expected else "other" if changed else "without"] += 1
    return ends


def test_mutations_of_log_txt(log_dir):
    assert log_mutations(log_dir, range(60))["right"] > 0


@pytest.mark.soak
def test_many_mutations_of_log_txt(log_dir, capsys):
    ends = log_mutations(log_dir, range(5000))
    with capsys.disabled():
        print(f"\nlog.txt {sum(ends.values())} tried:", dict(ends))


def test_only_whole_lines_stay(log_dir):
    whole = b"3 train 2.5\n4 val 2.75\n"
    (log_dir / "log.txt").write_bytes(
        b"0 train\n1 \n" + b"9" * 5000 + b" train 1.0\n\xff\x00\n" + whole + b"5 tr"
    )
    assert b"\n".join(go_on(log_dir)) == whole + b"30 train 0.500000\n"


def settings_mutations(log_dir: Path, seeds: range) -> None:
    """Nothing reads it: a run that goes on writes it anew, as it was."""
    path = log_dir / "settings.json"
    original = path.read_bytes()
    for seed in seeds:
        rng = Random(seed)
        path.write_bytes(rng.choice(MUTATORS)(original, rng))
        go_on(log_dir)
        assert path.read_bytes() == original


def test_mutations_of_settings_json(log_dir):
    settings_mutations(log_dir, range(30))


@pytest.mark.soak
def test_many_mutations_of_settings_json(log_dir):
    settings_mutations(log_dir, range(2000))


@pytest.mark.parametrize("name", ["log.txt", "settings.json"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_replaced_or_named(log_dir, name, make):
    path = log_dir / name
    path.unlink()
    make(path)
    if path.is_dir():
        with pytest.raises(UserError, match=f"cannot write {path} .Is a directory.: make room"):
            go_on(log_dir)
    else:
        assert go_on(log_dir)[-2] == b"30 train 0.500000"
        assert json.loads((log_dir / "settings.json").read_text())["settings"] == RUN["settings"]
