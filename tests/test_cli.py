"""What all command lines have in common."""

import pytest

import bench
import fineweb
import hellaswag
import lecture
import train_gpt2
from support.cli import Parser, UserError


@pytest.mark.parametrize(
    "script, flag, nearest",
    [
        (train_gpt2, "--max_step", "--max_steps"),
        (fineweb, "--shardsize", "--shard_size"),
        (hellaswag, "--modle", "--model"),
        (bench, "--pair", "--pairs"),
        (lecture, "--newst", "--newest"),
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
