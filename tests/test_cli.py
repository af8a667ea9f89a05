"""What all command lines have in common."""

import subprocess
import sys

import pytest

from support.cli import Parser, UserError
from tiny import ROOT


@pytest.mark.parametrize(
    "script, flag, nearest",
    [
        ("train_gpt2.py", "--max_step", "--max_steps"),
        ("fineweb.py", "--shardsize", "--shard_size"),
        ("hellaswag.py", "--modle", "--model"),
        ("bench.py", "--pair", "--pairs"),
        ("lecture.py", "--newst", "--newest"),
    ],
)
def test_an_unknown_flag_names_the_nearest_in_one_line(script, flag, nearest):
    command = [sys.executable, script, flag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: unknown flag {flag}: did you mean {nearest}?\n"


def test_a_flag_like_no_other_points_to_help():
    with pytest.raises(UserError, match="^unknown flag --xyz: --help lists the flags$"):
        Parser().parse_args(["--xyz"])
