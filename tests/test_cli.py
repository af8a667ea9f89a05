"""What all command lines have in common."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from subprocess import PIPE

import pytest

import bench
import export
import fineweb
import hellaswag
import lecture
import sample
import train_gpt2
from support import cli
from support.cli import Parser, UserError, one_line_errors
from test_sample_command import write_model
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("line", ["print('x', flush=True)", "print('x')"])  # fails now, or later
def test_output_to_a_full_disk_is_one_line(line):
    lines = "from support.cli import one_line_errors", "with one_line_errors():", f"    {line}"
    command = [sys.executable, "-c", "\n".join(lines)]
    with open("/dev/full", "w") as full:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(command, cwd=ROOT, env=env, stdout=full, stderr=PIPE, text=True)
    expected = "error: cannot write the output (No space left on device): make room\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_another_error_of_the_system_keeps_its_traceback():
    with pytest.raises(FileNotFoundError), one_line_errors():
        open("/none")


@pytest.mark.parametrize("error, code", [(OSError(28, "full"), 2), (BrokenPipeError(), 1)])
@pytest.mark.parametrize("script", [export, hellaswag])
def test_the_last_lines_are_output_too(tmp_path, monkeypatch, script, error, code):
    """What is printed when all is done."""
    data = str(ROOT / "tests" / "data" / "hellaswag_8.jsonl")
    write_model(tmp_path / "log", vocab_size=50257)
    flags = {
        export: [str(tmp_path / "log"), str(tmp_path / "out")],
        hellaswag: ["--model", str(tmp_path / "log"), "--limit", "1", "--data", data],
    }

    class Full(StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(cli, "drop_output", lambda: None)
    with pytest.raises(SystemExit) as stop:
        script.main(flags[script])
    assert stop.value.code == code
