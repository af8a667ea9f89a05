"""Checkpoints: exact, plain, and never half a file."""

import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from support import runs
from support.cli import UserError
from support.compute import Compute
from support.runs import State, newest_checkpoint
from tiny import TINY_FLAGS, run, tiny_model
from train_gpt2 import Settings, load_model, main

FLAGS = [*TINY_FLAGS, *"--T 32 --total_batch_size 256 --sample_every 0".split()]
FLAGS += "--eval_every 4 --val_tokens 1000 --save_every 5 --warmup_steps 3".split()


@pytest.fixture(scope="module")
def ten_steps(tmp_path_factory):
    """A run of ten steps, with checkpoints at 5 and 10."""
    folder = tmp_path_factory.mktemp("ten")
    result = run(*FLAGS, "--max_steps", "10", "--log_dir", str(folder))
    assert result.returncode == 0, result.stderr
    return folder


def model_at(folder, step: int) -> dict:
    return torch.load(folder / f"model_{step:05d}.pt", weights_only=True)


def test_ten_steps_are_five_and_five_more_bit_for_bit(ten_steps, tmp_path):
    shutil.copy(ten_steps / "model_00005.pt", tmp_path)
    shutil.copy(ten_steps / "log.txt", tmp_path)
    result = run(*FLAGS, *"--max_steps 10 --resume 1 --log_dir".split(), str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "log.txt").read_text() == (ten_steps / "log.txt").read_text()
    expected, got = model_at(ten_steps, 10), model_at(tmp_path, 10)
    for name, weight in expected["model"].items():
        assert torch.equal(got["model"][name], weight), name
    for i, moments in expected["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(got["optimizer"]["state"][i][name], value), (i, name)
    assert got["loader"] == expected["loader"] and got["loader"]["position"] == 10 * 256
    print("10 steps = 5 + 5 more: weights, moments and log.txt are equal, bit for bit")


def test_a_checkpoint_is_a_plain_dict_with_clean_names(ten_steps):
    checkpoint = model_at(ten_steps, 10)  # weights_only
    assert list(checkpoint) == [
        "model",
        "config",
        "optimizer",
        "step",
        "loader",
        "rng",
        "val_loss",
        "settings",
        "resumed",
    ]
    assert list(checkpoint["model"]) == list(tiny_model().state_dict())
    lines = (ten_steps / "log.txt").read_text().splitlines()
    assert f"10 val {checkpoint['val_loss']:.6f}" in lines  # of the model that is saved


def test_a_checkpoint_can_be_loaded_as_a_model(ten_steps):
    model = load_model(str(ten_steps / "model_00010.pt"))
    assert torch.equal(model.lm_head.weight, model_at(ten_steps, 10)["model"]["lm_head.weight"])


def test_half_a_checkpoint_falls_back_to_the_one_before(ten_steps, tmp_path, capsys):
    for path in ten_steps.glob("model_*.pt"):
        shutil.copy(path, tmp_path)
    half = (tmp_path / "model_00010.pt").read_bytes()[:5000]
    (tmp_path / "model_00010.pt").write_bytes(half)
    assert newest_checkpoint(str(tmp_path))["step"] == 5
    assert "model_00010.pt is not a complete checkpoint" in capsys.readouterr().out


def test_only_checkpoints_with_a_step_are_resumed_from(ten_steps, tmp_path):
    for name, step in (("model_00005", 5), ("model_best", 10), ("model_00010_old", 10)):
        shutil.copy(ten_steps / f"model_{step:05d}.pt", tmp_path / f"{name}.pt")
    assert newest_checkpoint(str(tmp_path))["step"] == 5


def test_a_checkpoint_that_is_absent_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model_7\.pt does not exist"):
        load_model(str(tmp_path / "model_7.pt"))


def test_a_run_moves_away_only_when_all_processes_have_read(ten_steps, tmp_path, monkeypatch):
    start = tmp_path / "model_00010.pt"
    shutil.copy(ten_steps / start.name, start)
    (tmp_path / "log.txt").touch()
    there = []  # at each meeting of the processes
    monkeypatch.setattr(Compute, "barrier", lambda self: there.append(start.exists()))
    flags = f"--max_steps 0 --init_from {start} --log_dir {tmp_path}"
    main([*FLAGS, *flags.split()])
    assert there == [True] and not start.exists()


def test_a_save_that_is_killed_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = runs.write_checkpoint(str(tmp_path), {"step": 7, "kind": "good"})

    def killed(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.write_checkpoint(str(tmp_path), {"step": 7, "kind": "bad"})
    assert torch.load(path, weights_only=True)["kind"] == "good"


def test_resume_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(UserError, match="found no checkpoint in"):
        newest_checkpoint(str(tmp_path))


def state_of(model) -> State:
    optimizer = model.configure_optimizers(0.1, 1e-3, "cpu")
    return State(
        model, optimizer, SimpleNamespace(state_dict=dict, load_state_dict=dict), Settings()
    )


def test_the_generator_goes_on_where_the_checkpoint_was_written():
    """Today nothing that trains draws from it: the losses cannot tell whether it was restored."""
    state = state_of(tiny_model())
    checkpoint = state.state_dict()
    expected = torch.rand(5)
    state.load_state_dict(checkpoint)
    assert torch.equal(torch.rand(5), expected)


class FakeGenerator:
    """Stands in for the GPU's, where there is none."""

    state = 7


def test_the_gpu_s_generator_is_saved_and_restored_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: FakeGenerator.state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", partial(setattr, FakeGenerator, "state"))
    states = runs.generator_states()
    FakeGenerator.state = 8
    runs.restore_generators({"rng": states["rng"]})  # of a run on a CPU
    assert FakeGenerator.state == 8
    runs.restore_generators(states)
    assert FakeGenerator.state == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_generator_goes_on():
    states = runs.generator_states()
    expected = torch.rand(5, device="cuda")
    runs.restore_generators(states)
    assert torch.equal(torch.rand(5, device="cuda"), expected)


def test_settings_travel_with_the_checkpoint(ten_steps):
    settings = Settings(**model_at(ten_steps, 5)["settings"])
    assert (settings.n_embd, settings.total_batch_size) == (16, 256)
