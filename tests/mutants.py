"""Bugs put in on purpose, those that the lessons warn of: does a test notice?

    python tests/mutants.py             # all of them: minutes
    python tests/mutants.py 25 29 33    # those of some lessons

Each mutant is a copy of the project in which one place is changed; its tests must fail there.
Exit status 1 where they do not: such a test proves nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "log", "edu_fineweb10B", "hellaswag")


class Mutant(NamedTuple):
    """One place of one file, changed; `tests` are pytest's arguments."""

    lesson: int
    bug: str
    path: str
    old: str
    new: str
    tests: str


INSIDE = """\
        with nullcontext() if is_last or compute.world_size == 1 else model.no_sync():
            with compute.autocast():  # the backward pass follows the forward pass's dtypes
                _, loss = model(x, y)
"""
BEFORE = """\
        with nullcontext():
            with compute.autocast():
                _, loss = model(x, y)
            model.require_backward_grad_sync = is_last
"""

MUTANTS = [
    Mutant(
        25,
        "the switch is set after the forward pass",
        "train_gpt2.py",
        INSIDE,
        BEFORE,
        "tests/test_distributed.py -k averaged",
    ),
    Mutant(
        25,
        "gradients are averaged after each micro-step",
        "train_gpt2.py",
        "model.no_sync()",
        "nullcontext()",
        "tests/test_distributed.py -k averaged",
    ),
    Mutant(
        29,
        "samples draw from training's generator",
        "train_gpt2.py",
        "32 - len(start), generator=generator)",
        "32 - len(start))",
        "tests/test_sample.py -k left_alone",
    ),
    Mutant(
        33,
        "the generator is not restored",
        "support/runs.py",
        '    torch.set_rng_state(checkpoint["rng"])\n',
        "",
        "tests/test_checkpoint.py -k generator",
    ),
    Mutant(
        33,
        "the GPU's generator is not saved",
        "support/runs.py",
        'states["cuda_rng"] = torch.cuda.get_rng_state()',
        "pass",
        "tests/test_checkpoint.py -k generator",
    ),
    Mutant(
        37,
        "a fifth of the sleep",
        "support/compute.py",
        "time.sleep(0.1)",
        "time.sleep(0.02)",
        "tests/test_distributed.py -k sleep",
    ),
]


def is_noticed(mutant: Mutant, folder: Path) -> bool:
    """Whether a test fails in `folder`, a copy of the project, with the bug in it."""
    path = folder / mutant.path
    right = path.read_text(encoding="utf-8")
    assert right.count(mutant.old) == 1, f"{mutant.bug}: its place in {mutant.path} is not there"
    path.write_text(right.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-qx", *mutant.tests.split()]
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    finally:
        path.write_text(right, encoding="utf-8")
    assert done.returncode in (0, 1), done.stdout  # 1: a test failed; others: none was run
    return done.returncode == 1


def main(lessons: list[str]) -> int:
    chosen = [m for m in MUTANTS if not lessons or str(m.lesson) in lessons]
    noticed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "copy"
        shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        for mutant in chosen:
            is_good = is_noticed(mutant, folder)
            noticed += is_good
            verdict = "noticed" if is_good else "NOT NOTICED"
            print(f"lesson {mutant.lesson:02d}  {verdict}: {mutant.bug}", flush=True)
    print(f"{noticed} of {len(chosen)} bugs noticed")
    return 0 if noticed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
