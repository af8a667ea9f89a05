"""Which of several processes says what is wrong."""

from pathlib import Path

from tiny import TINY_FLAGS, run

SCRIPT = """
import os
import time

from support.cli import UserError, one_line_errors

with one_line_errors():
    rank = int(os.environ["RANK"])
    if rank in {ranks}:
        raise UserError({error})
    time.sleep(20)  # in a collective, say
"""


def errors(folder: Path, ranks: set[int], error: str) -> list[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(ranks=ranks, error=error))
    result = run(cwd=folder, processes=2, script=script, timeout=60)
    assert result.returncode != 0
    return [line for line in result.stderr.splitlines() if line.startswith("error")]


def test_what_all_have_met_is_said_once(tmp_path):
    assert errors(tmp_path, {0, 1}, "'no such file'") == ["error: no such file"]


def test_what_one_has_met_is_said_with_its_rank(tmp_path):
    assert errors(tmp_path, {1}, "'out of memory'") == ["error on rank 1: out of memory"]


def test_two_with_errors_of_their_own_say_both(tmp_path):
    assert sorted(errors(tmp_path, {0, 1}, "f'broken disk of {rank}'")) == [
        "error on rank 1: broken disk of 1",
        "error: broken disk of 0",
    ]


def test_a_mistake_in_a_flag_is_said_once():
    result = run(*TINY_FLAGS, "--max_step", "3", processes=2, timeout=60)
    assert result.stderr.count("unknown flag --max_step") == 1
