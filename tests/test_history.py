"""What lecture.py numbers measures of each lesson, on trainers that say what they like."""

import os
from pathlib import Path

import pytest

from support import numbers
from support.numbers import Row

MODEL = """
import part

class Settings:
    max_steps: int = 3
    vocab_size = 7

class GPTConfig:
    def __init__(self, vocab_size):
        self.vocab_size = vocab_size

class Weight:
    def __init__(self, count):
        self.numel = lambda: count

class GPT:
    def __init__(self, config):
        self.parameters = lambda: [Weight(7 * config.vocab_size), Weight(1)]
"""
RUN = """
if __name__ == "__main__":
    import sys
    assert sys.argv[1:] == ["--max_steps", "50"], sys.argv
    held = bytearray({megabytes} * 10**6)
    for step in range(50):
        ms = 1000 if step < 10 else {ms}
        print(f"step {{step:5d}} | loss: {{10 - step / 10:.6f}} | dt: {{ms:.2f}}ms | tok/sec: 1")
"""


def lesson(folder: Path, trainer: str) -> tuple[Path, dict[str, str]]:
    folder.mkdir()
    (folder / "train_gpt2.py").write_text(trainer)
    (folder / "part.py").write_text("one = 1\ntwo = 2\n")
    (folder / "other.py").write_text("not = imported\n")
    return folder, dict(os.environ)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[Row]:
    root = tmp_path_factory.mktemp("lessons")
    trees = {
        4: lesson(root / "four", MODEL),
        5: lesson(root / "five", MODEL + RUN.format(ms=20, megabytes=0)),
        6: lesson(root / "six", MODEL + RUN.format(ms=30, megabytes=300)),
        7: lesson(root / "seven", MODEL + RUN.format(ms=30, megabytes=300)),
    }
    return numbers.measure(trees, rounds=2)


def test_a_lesson_that_does_not_train_has_a_size(rows):
    lines = MODEL.count("\n")
    assert rows[0] == Row(4, lines, lines + 2, 50, None, None, None, None, None, None)


def test_loss_and_milliseconds_without_the_first_steps(rows):
    assert rows[1].first_loss == 10 and rows[1].last_loss == 5.1 and rows[1].ms == 20
    assert rows[1].ms_ratio is None  # the lesson before has no clock


def test_ratios_to_the_lesson_before(rows):
    assert rows[2].ms_ratio == 1.5
    assert rows[2].megabytes - rows[1].megabytes == pytest.approx(300, rel=0.2)
    assert rows[2].megabytes_ratio == pytest.approx(rows[2].megabytes / rows[1].megabytes, rel=0.1)


def test_the_same_code_is_not_measured_again(rows):
    assert rows[3] == rows[2]._replace(lesson=7, ms_ratio=1.0, megabytes_ratio=1.0)


def test_what_is_written_is_read(tmp_path, rows):
    path = tmp_path / "numbers.csv"
    path.write_text(numbers.text(rows))
    assert numbers.text(numbers.read(path)) == path.read_text()
    assert numbers.read(path)[0] == rows[0]


def test_a_page_says_what_changed_and_only_what_is_known(rows):
    assert numbers.in_words(rows[0], None) == (
        f"train_gpt2.py: {MODEL.count(chr(10))} lines. The 124M model: 50 parameters."
    )
    words = numbers.in_words(rows[2], rows[1])
    assert (
        "lines (+0)." in words and "after 50 steps" in words and "(a lesson before: 5.100)" in words
    )
    assert "A step takes 1.50 times as long" in words
