"""What each lesson did to the numbers: book/numbers.csv, by python lecture.py numbers."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

STEPS = 50
WARM = 10  # steps that are not timed
QUIET = ("eval_every", "sample_every", "hellaswag_every", "save_every")  # 0, where there is such
STEP = re.compile(r"^step +\d+ \| loss: ([\d.]+)(?:.*?dt: ([\d.]+)ms)?", re.MULTILINE)
PRINT_SIZE = """
import hashlib
import sys
from pathlib import Path

import torch

import train_gpt2

vocab_size = train_gpt2.Settings.vocab_size if hasattr(train_gpt2, "Settings") else 50257
with torch.device("meta"):
    model = train_gpt2.GPT(train_gpt2.GPTConfig(vocab_size=vocab_size))
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
ours = {Path(file) for file in files if file and Path(file).parent.is_relative_to(Path.cwd())}
print(sum(p.numel() for p in model.parameters()))
print(sum(len(path.read_text(encoding="utf-8").splitlines()) for path in ours))
print(hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ours))).hexdigest())
"""

# From a small process: a child's peak memory begins with what its parent has.
PRINT_PEAK = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


class Row(NamedTuple):
    """One lesson. What it has none of, or what was not measured, is None."""

    lesson: int
    lines: int  # of train_gpt2.py
    lines_of_all: int  # and of the modules that it imports
    parameters: int  # of the 124M model, with the run's vocabulary
    first_loss: float | None = None  # of the default run on a CPU
    last_loss: float | None = None  # and after STEPS updates
    ms: float | None = None  # a step takes; median of the rounds
    megabytes: float | None = None  # at most, of the whole process; median of the rounds
    ms_ratio: float | None = None  # to the lesson before; median of the pairs
    megabytes_ratio: float | None = None


class Ran(NamedTuple):
    losses: list[float]
    ms: float | None
    megabytes: float


def size(tree: Path, env: dict[str, str]) -> tuple[list[int], str]:
    """Lines of train_gpt2.py, lines of all that it imports from the repository, and parameters;
    and a checksum of that code."""
    command = [sys.executable, "-c", PRINT_SIZE]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=True)
    parameters, lines_of_all, checksum = done.stdout.split()
    lines = (tree / "train_gpt2.py").read_text(encoding="utf-8").count("\n")
    return [lines, int(lines_of_all), int(parameters)], checksum


def flags(trainer: str) -> list[str]:
    """Of the run, as far as this train_gpt2.py has them."""
    wanted = {"max_steps": STEPS, "device": "cpu", **dict.fromkeys(QUIET, 0)}
    known = {
        name: value for name, value in wanted.items() if re.search(rf"^    {name}: ", trainer, re.M)
    }
    return [part for name, value in known.items() for part in (f"--{name}", str(value))]


def run(tree: Path, env: dict[str, str]) -> Ran:
    """Train as the lesson does; what it printed, and the most memory that it had."""
    trainer = tree / "train_gpt2.py"
    train = [sys.executable, str(trainer), *flags(trainer.read_text(encoding="utf-8"))]
    command = [sys.executable, "-c", PRINT_PEAK, *train]
    done = subprocess.run(command, cwd=tree, env=env, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"{tree}: {done.stdout}"
    steps = STEP.findall(done.stdout)
    peak = int(done.stdout.split()[-1])
    timed = [float(ms) for _, ms in steps[WARM:] if ms]
    unit = 2**10 if sys.platform != "darwin" else 2**20
    return Ran(
        [float(loss) for loss, _ in steps],
        median(timed) if timed else None,
        peak / unit,
    )


def measure(trees: dict[int, tuple[Path, dict[str, str]]], rounds: int) -> list[Row]:
    """By lesson. In each round all that train run once, one after the other, so that the two of a
    pair, a lesson and the one before, run side by side in time. Where the code is that of the
    lesson before, so are the numbers."""
    sizes = {number: size(*tree) for number, tree in trees.items()}
    ran: dict[int, list[Ran]] = {number: [] for number in trees}
    for i in range(rounds):
        for number, tree in trees.items():
            if i > 0 and not (ran[number] and ran[number][0].ms):
                continue  # it trains without a clock, or not at all
            is_same = number - 1 in trees and sizes[number][1] == sizes[number - 1][1]
            once = ran[number - 1][-1:] if is_same else [run(*tree)]
            ran[number] += [each for each in once if each.losses]
            print(f"round {i + 1} of {rounds}, lesson {number:02d}", end="\r", flush=True)
    print()
    return [row(number, sizes[number][0], ran[number], ran.get(number - 1, [])) for number in trees]


def row(number: int, size: list[int], ran: list[Ran], before: list[Ran]) -> Row:
    """Of one lesson, with what it and the lesson before printed, round by round."""
    if not ran:
        return Row(number, *size)
    losses = ran[0].losses
    last = losses[STEPS - 1] if len(losses) >= STEPS else None
    if ran[0].ms is None:
        return Row(number, *size, losses[0], last)
    ms, megabytes = median(r.ms for r in ran), median(r.megabytes for r in ran)
    if not before or before[0].ms is None:
        return Row(number, *size, losses[0], last, ms, megabytes)
    pairs = list(zip(ran, before, strict=True))
    ratios = (
        median(a.ms / b.ms for a, b in pairs),
        median(a.megabytes / b.megabytes for a, b in pairs),
    )
    return Row(number, *size, losses[0], last, ms, megabytes, *ratios)


def text(rows: list[Row]) -> str:
    """As a CSV, to the digits that mean something."""
    digits = {
        "first_loss": 3,
        "last_loss": 3,
        "ms": 1,
        "megabytes": 0,
        "ms_ratio": 3,
        "megabytes_ratio": 3,
    }
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Row._fields)
    for each in rows:
        writer.writerow(
            "" if value is None else f"{value:.{digits[name]}f}" if name in digits else value
            for name, value in each._asdict().items()
        )
    return file.getvalue()


def read(path: Path) -> list[Row]:
    """The rows of such a CSV."""
    with path.open(encoding="utf-8") as file:
        return [
            Row(
                **{
                    name: None if value == "" else float(value) if "." in value else int(value)
                    for name, value in line.items()
                }
            )
            for line in csv.DictReader(file)
        ]


def in_words(row: Row, before: Row | None) -> str:
    """What a lesson's page says of it, beside the row of the lesson before."""
    more = f" ({row.lines - before.lines:+})" if before else ""
    words = (
        f"train_gpt2.py: {row.lines} lines{more}. The 124M model: {row.parameters:,} parameters."
    )
    if row.first_loss is not None:
        words += f" The first loss: {row.first_loss:.3f}"
        if row.last_loss is not None:
            words += f"; after {STEPS} steps of the default run on a CPU: {row.last_loss:.3f}"
            if before and before.last_loss is not None:
                words += f" (a lesson before: {before.last_loss:.3f})"
        words += "."
    if row.ms_ratio is not None:
        words += (
            f" A step takes {row.ms_ratio:.2f} times as long as a lesson before, and the process"
        )
        words += f" needs {row.megabytes_ratio:.2f} times the memory (a fifth may be noise)."
    return words
