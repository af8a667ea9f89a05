"""What all command lines have in common."""

import subprocess
import sys
from subprocess import PIPE

import pytest

import bench
import fineweb
import hellaswag
import lecture
import sample
import train_gpt2
from support.cli import Parser, UserError
from tiny import ROOT


@pytest.mark.parametrize(
    "script, flag, nearest",
    [
        (train_gpt2, "--max_step", "--max_steps"),
        (fineweb, "--shardsize", "--shard_size"),
        (hellaswag, "--modle", "--model"),
        (bench, "--pair", "--pairs"),
        (lecture, "--newst", "--newest"),
        (sample, "--tempreature", "--temperature"),
    ],
)
def test_an_unknown_flag_names_the_nearest_in_one_line(script, flag, nearest, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main([flag])
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"error: unknown flag {flag}: did you mean {nearest}?\n")


def test_a_flag_like_no_other_points_to_help():
    with pytest.raises(UserError, match="^unknown flag --xyz: --help lists the flags$"):
        Parser().parse_args(["--xyz"])


@pytest.mark.parametrize(
    "last_line, code", [("raise KeyboardInterrupt", 130), ("print('more ' * 20000)", 1)]
)
def test_ctrl_c_and_a_closed_pipe_end_it_without_a_word(last_line, code):
    lines = "from support.cli import one_line_errors", "with one_line_errors():", f"    {last_line}"
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == code
