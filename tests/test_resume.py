"""Which settings a run that is resumed goes on with."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from support.cli import FIXED, KEPT, TYPED
from tiny import TINY_FLAGS, error_of, losses, run, write_shards
from train_gpt2 import DataLoaderLite, Settings, UserError

FLAGS = "--T 16 --total_batch_size 64 --eval_every 0 --sample_every 0 --seed 7".split()
FLAGS += "--max_steps 8 --save_every 4 --max_lr 0.01 --warmup_steps 2 --weight_decay 0.3".split()


@pytest.fixture(scope="module")
def eight_steps(tmp_path_factory) -> Path:
    """A run of eight steps, with checkpoints at 4 and 8, on two shards."""
    folder = tmp_path_factory.mktemp("eight")
    (folder / "data").mkdir()
    write_shards(folder / "data", 500, 300)
    write_shards(folder / "data", 300, split="val")
    shards = ("--data_root", str(folder / "data"))
    assert losses(run(*TINY_FLAGS, *FLAGS, *shards, "--log_dir", str(folder / "log")))
    return folder


@pytest.fixture
def cut(eight_steps, tmp_path) -> Path:
    """A copy of that run as it was at step 4."""
    shutil.copytree(eight_steps / "log", tmp_path / "log")
    (tmp_path / "log" / "model_00008.pt").unlink()
    return tmp_path / "log"


def resume(log_dir: Path, *flags: str):
    return run("--device", "cpu", "--resume", "1", "--log_dir", str(log_dir), *flags)


def checkpoint(log_dir: Path, step: int) -> dict:
    return torch.load(log_dir / f"model_{step:05d}.pt", weights_only=True)


def test_without_a_flag_a_run_goes_on_with_its_own_settings(eight_steps, cut):
    result = resume(cut)
    assert losses(result) == losses(result)[-4:]
    assert (cut / "log.txt").read_text() == (eight_steps / "log" / "log.txt").read_text()
    weights = checkpoint(eight_steps / "log", 8)["model"]
    assert all(torch.equal(w, weights[name]) for name, w in checkpoint(cut, 8)["model"].items())
    told = [line for line in result.stdout.splitlines() if "from here on" in line]
    print(f"typed: --resume 1; settings that changed: {len(told)}; the same log.txt and weights")
    assert told == []


def test_what_is_typed_and_differs_is_taken_told_and_recorded(cut):
    result = resume(cut, "--max_lr", "0.02", "--B", "2")
    assert "max_lr: 0.02 from here on, it was 0.01" in result.stdout
    assert "goes on at step 4" in result.stdout and "lr 1.5500e-02" in result.stdout
    changed = [{"step": 4, "B": [4, 2], "max_lr": [0.01, 0.02], "min_lr": [0.001, 0.002]}]
    assert checkpoint(cut, 8)["resumed"] == changed
    told = json.loads((cut / "settings.json").read_text())
    assert told["resumed"] == changed and told["settings"]["max_lr"] == 0.02
    (cut / "model_00008.pt").rename(cut / "model_00009.pt")  # resumed once more, at its step 8
    resume(cut, "--max_steps", "10")
    assert checkpoint(cut, 10)["resumed"] == [*changed, {"step": 8, "max_steps": [8, 10]}]


@pytest.mark.parametrize(
    "flag, value, was",
    [
        ("seed", "8", "7"),
        ("total_batch_size", "128", "64"),
        ("T", "32", "16"),
        ("n_layer", "3", "2"),
        ("size", "gpt2", "small"),
        ("init_from", "gpt2", "scratch"),
    ],
)
def test_what_would_make_another_run_is_refused(cut, capsys, flag, value, was):
    before = {path: path.read_bytes() for path in cut.glob("*")}
    flags = ("--device", "cpu", "--resume", "1", "--log_dir", str(cut), f"--{flag}", value)
    error = error_of(capsys, *flags)
    assert f"--{flag} {value}: the run in {cut} has {was}; leave it out" in error
    assert {path: path.read_bytes() for path in cut.glob("*")} == before


def test_what_is_typed_again_as_it_was_is_fine(cut):
    assert losses(resume(cut, *TINY_FLAGS, *FLAGS))


def test_other_data_is_refused_and_the_same_in_another_place_is_not(eight_steps, cut, capsys):
    shutil.copytree(eight_steps / "data", cut.parent / "moved")
    moved = ("--data_root", str(cut.parent / "moved"))
    assert losses(resume(cut, *moved))
    for change in (
        lambda: (cut.parent / "moved" / "edufineweb_train_000001.npy").unlink(),
        lambda: write_shards(cut.parent / "moved", 500, 300, seed=1),
    ):
        change()
        flags = ("--device", "cpu", "--resume", "1", "--log_dir", str(cut), *moved)
        error = error_of(capsys, *flags)
        assert "not those that this run began with, 2 of 800: name these by --data_root" in error


def test_steps_that_are_done_already_are_refused(cut, capsys):
    flags = ("--device", "cpu", "--resume", "1", "--log_dir", str(cut), "--max_steps", "3")
    assert "--max_steps 3: the checkpoint is of step 4 already" in error_of(capsys, *flags)


def test_a_folder_that_is_not_there_is_not_made(tmp_path, capsys):
    error = error_of(capsys, *TINY_FLAGS, "--resume", "1", "--log_dir", str(tmp_path / "typo"))
    assert f"--resume 1: found no checkpoint in {tmp_path}/typo, expected" in error
    assert not any(tmp_path.iterdir())


def test_a_model_without_a_run_is_no_run(cut, capsys):
    whole = checkpoint(cut, 4)
    torch.save({key: whole[key] for key in ("model", "config", "step")}, cut / "model_00004.pt")
    flags = ("--device", "cpu", "--resume", "1", "--log_dir", str(cut))
    assert "holds a model only: begin with it by --init_from" in error_of(capsys, *flags)


def test_checkpoints_from_before_the_shards_were_told_are_read(eight_steps):
    loader = DataLoaderLite(2, 16, data_root=str(eight_steps / "data"))
    loader.load_state_dict({"position": 64})
    assert loader.position == 64
    with pytest.raises(UserError, match="this run began with"):
        loader.load_state_dict({"position": 64, "shards": [[500, 1]]})
    assert loader.position == 64


def test_every_field_says_what_it_is_when_a_run_goes_on():
    kinds = {f.name: f.metadata["resume"] for f in fields(Settings)}
    assert set(kinds.values()) == {FIXED, KEPT, TYPED}
    assert [name for name, kind in kinds.items() if kind == TYPED] == [
        "log_dir",
        "resume",
        "device",
    ]


def test_a_run_that_is_done_says_so(eight_steps, tmp_path):
    shutil.copytree(eight_steps / "log", tmp_path / "log")
    before = {path: path.read_bytes() for path in (tmp_path / "log").iterdir()}
    result = resume(tmp_path / "log")
    assert result.returncode == 0 and "log.txt" not in result.stdout
    assert "has done its 8 steps; a larger --max_steps adds more" in result.stdout
    assert {path: path.read_bytes() for path in (tmp_path / "log").iterdir()} == before


def test_a_default_is_not_called_none(cut):
    assert (
        "dtype: float32 from here on, it was the default"
        in resume(cut, "--dtype", "float32").stdout
    )
