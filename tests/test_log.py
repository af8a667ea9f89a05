"""log.txt and settings.json."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from support.runs import Log, git_commit
from tiny import ROOT, TINY_FLAGS, losses, run

FLAGS = [*TINY_FLAGS, *"--max_steps 3 --eval_every 2 --val_tokens 1000 --sample_every 0".split()]


def read(folder) -> list[list[str]]:
    return [line.split() for line in (folder / "log.txt").read_text().splitlines()]


def test_a_run_can_be_read_back(tmp_path):
    result = run(*FLAGS, "--log_dir", str(tmp_path))
    lines = read(tmp_path)
    assert [line[:2] for line in lines] == [
        ["0", "val"],
        ["0", "train"],
        ["1", "train"],
        ["2", "val"],
        ["2", "train"],
        ["3", "val"],
    ]
    assert [float(v) for _, stream, v in lines if stream == "train"] == losses(result)
    run_info = json.loads((tmp_path / "settings.json").read_text())
    assert run_info["settings"]["n_embd"] == 16 and run_info["settings"]["data_root"] == "input.txt"
    assert run_info["torch"] and len(run_info["commit"] or "0" * 40) == 40


def test_only_rank_0_writes(tmp_path):
    log = Log(str(tmp_path / "log"), {}, rank=1)
    log.write(0, "train", 1.0)
    assert not (tmp_path / "log").exists()


def test_a_new_run_keeps_the_files_of_the_earlier_one(tmp_path, capsys):
    Log(str(tmp_path), {"run": 1}).write(0, "train", 1.0)
    (tmp_path / "mine.txt").write_text("not ours")
    Log(str(tmp_path), {"run": 2}).write(0, "train", 2.0)
    (folder,) = tmp_path.glob("run-*")
    assert f"the earlier run in {tmp_path} is now in {folder}" in capsys.readouterr().out
    assert read(folder) == [["0", "train", "1.000000"]]
    assert read(tmp_path) == [["0", "train", "2.000000"]]
    assert (tmp_path / "mine.txt").exists()
    assert json.loads((folder / "settings.json").read_text())["run"] == 1


def test_lines_past_the_checkpoint_are_written_again_and_a_copy_keeps_them(tmp_path, capsys):
    log = Log(str(tmp_path), {})
    for step in range(5):
        log.write(step, "train", step)
    with log.path.open("a") as file:
        file.write("\nnot ours\n5 tr")  # a run that was killed in the middle of a line
    before = log.path.read_text()
    Log(str(tmp_path), {}, first_step=3).write(3, "train", 33)
    copy = tmp_path / "log_before_resume_at_00003.txt"
    assert copy.read_text() == before and str(copy) in capsys.readouterr().out
    Log(str(tmp_path), {}, first_step=3).write(3, "train", 33)
    assert len(list(tmp_path.glob("log_before*"))) == 2 and copy.read_text() == before
    Log(str(tmp_path), {}, first_step=4).begin()  # nothing is lost
    assert len(list(tmp_path.glob("log_before*"))) == 2
    assert [(int(step), float(value)) for step, _, value in read(tmp_path)] == [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 33),
    ]


def test_checkpoints_of_an_earlier_run_are_kept_too(tmp_path):
    torch.save({}, tmp_path / "model_00005.pt")
    Log(str(tmp_path), {}).begin()
    assert not list(tmp_path.glob("*.pt")) and list(tmp_path.glob("run-*/model_00005.pt"))


def test_half_a_checkpoint_of_a_killed_run_is_removed_and_nothing_else(tmp_path):
    ours = {"model_00005.pt.123.tmp", "model_00005.pt.tmp", "settings.json.9.tmp", "log.txt.9.tmp"}
    theirs = {"mine.tmp", "model_best.pt.1.tmp", "log_of_mine.txt.9.tmp"}
    for name in ours | theirs | {"log_before_resume_at_00010-2.txt.9.tmp"}:
        (tmp_path / name).touch()
    Log(str(tmp_path), {}).begin()
    assert {path.name for path in tmp_path.glob("*.tmp")} == theirs


def test_what_is_measured_again_is_no_loss(tmp_path):
    """A validation belongs to the step that a checkpoint is of: the run that goes on repeats it."""
    first = run(*FLAGS, "--save_every", "2", "--log_dir", str(tmp_path))
    before = read(tmp_path)
    for _ in range(2):
        again = run("--resume", "1", "--device", "cpu", "--log_dir", str(tmp_path))
        assert (first.returncode, again.returncode) == (0, 0)
    assert read(tmp_path) == before and not list(tmp_path.glob("log_before*"))


def test_the_commit_is_that_of_the_code_wherever_one_stands(tmp_path, monkeypatch):
    here = git_commit()
    monkeypatch.chdir(tmp_path)
    assert git_commit() == here
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    if (ROOT / ".git").exists():
        assert here == subprocess.run(command, capture_output=True, text=True).stdout.strip()


def test_a_run_is_never_moved_into_the_folder_of_another(tmp_path):
    for number in (1, 2):
        (tmp_path / "log.txt").write_text(f"{number}\n")
        os.utime(tmp_path / "log.txt", (0, 0))  # both of the same second
        Log(str(tmp_path), {}).begin()
        (tmp_path / "settings.json").unlink()
    folders = sorted(tmp_path.glob("run-*"))
    assert [(folder / "log.txt").read_text() for folder in folders] == ["1\n", "2\n"]


@pytest.mark.parametrize("killed_at", range(4))
def test_a_move_that_was_killed_is_finished(tmp_path, monkeypatch, killed_at):
    names = {"log.txt", "settings.json", "model_00005.pt"}
    for name in names:
        (tmp_path / name).write_text("0 train 1.0\n")
    rename, calls = Path.rename, []

    def killed(self, target):
        calls.append(target)
        if len(calls) > killed_at:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        Log(str(tmp_path), {}).begin()
    monkeypatch.undo()
    Log(str(tmp_path), {}).begin()
    (folder,) = tmp_path.glob("run-*")
    assert {path.name for path in folder.glob("*")} == names


def test_a_run_that_fails_before_its_first_line_leaves_the_earlier_one_alone(tmp_path):
    run(*FLAGS, "--log_dir", str(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.glob("*")}
    failed = run(*FLAGS, "--val_tokens", "1", "--log_dir", str(tmp_path))
    assert failed.returncode == 2 and "tokens to validate on" in failed.stderr
    assert {path: path.read_bytes() for path in tmp_path.glob("*")} == before


def test_a_log_that_was_not_written_is_not_named(tmp_path):
    nothing = "--max_steps 0 --eval_every 0 --sample_every 0 --log_dir".split()
    assert "log: " not in run(*FLAGS, *nothing, str(tmp_path)).stdout
