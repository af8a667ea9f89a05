"""What train() hands on, and when: the parts are tested elsewhere."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hellaswag
import train_gpt2
from support.cli import UserError
from support.compute import Compute
from support.plan import settle
from support.runs import State, read_checkpoint
from tiny import TINY_FLAGS, tiny_model, write_shards
from train_gpt2 import (
    GPT,
    DataLoaderLite,
    Settings,
    hellaswag_accuracy,
    main,
    train,
)

TINY = dict(n_layer=2, n_head=2, n_embd=16, B=2, T=16, total_batch_size=32, max_steps=5)
TINY |= dict(eval_every=0, sample_every=0, save_every=0)
QUIET = [*TINY_FLAGS, *"--sample_every 0 --val_tokens 1000 --log_dir".split()]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(...) trains with these settings, the steps left out, and returns what was seen."""
    for split, token in (("train", 1), ("val", 2)):
        np.save(tmp_path / f"{split}.npy", np.full(500, token, dtype=np.uint16))
    seen = []
    monkeypatch.setattr(train_gpt2, "distribute", lambda model, _: model)
    monkeypatch.setattr(Compute, "barrier", lambda _: None)
    monkeypatch.setattr(Compute, "sum", lambda _, tensor: tensor)  # of this process alone

    def step(model, optimizer, loader, *_):
        seen.append(("train", loader.next_batch()[0].max().item()))
        return torch.zeros(2)

    def validate(model, loader, max_tokens, compute):
        seen.append(("val", loader.next_batch()[0].max().item(), max_tokens))
        return 0.0

    def save(log_dir, checkpoint, keep):
        seen.append(("save", checkpoint["step"]))

    monkeypatch.setattr(train_gpt2, "train_step", step)
    monkeypatch.setattr(train_gpt2, "validation_loss", validate)
    monkeypatch.setattr(train_gpt2, "write_checkpoint", save)

    def run(rank: int = 0, **given) -> list:
        given = {**TINY, "data_root": str(tmp_path), "log_dir": str(tmp_path / "log"), **given}
        compute = Compute("cpu", rank=rank, world_size=1 + rank)
        train(settle(Settings(), given, compute), compute)
        return seen

    return run


def test_training_and_validation_read_their_own_tokens(run):
    seen = run(max_steps=1, eval_every=1, val_tokens=100)
    assert seen == [("val", 2, 100), ("train", 1), ("val", 2, 100)]


def test_checkpoints_are_saved_between_updates_and_at_the_end(run):
    saved = [what[1] for what in run(save_every=2) if what[0] == "save"]
    assert saved == [2, 4, 5]  # none of a model without an update


def test_only_rank_0_saves(run):
    assert {what[0] for what in run(rank=1, B=1, save_every=2)} == {"train"}


def test_hellaswag_s_accuracy_goes_to_the_log(run, tmp_path, monkeypatch):
    monkeypatch.setattr(hellaswag, "share", lambda *_: [{}])
    monkeypatch.setattr(train_gpt2, "hellaswag_accuracy", lambda *_: 0.25)
    run(max_steps=3, hellaswag_every=2)
    lines = (tmp_path / "log" / "log.txt").read_text().splitlines()
    assert [line for line in lines if "train" not in line] == [
        f"{step} hella 0.250000" for step in (0, 2, 3)
    ]


def test_one_process_per_machine_downloads_and_the_others_wait(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    events = []
    monkeypatch.setattr(hellaswag, "download", lambda _: events.append("download"))
    monkeypatch.setattr(Compute, "sum", lambda self, numbers: numbers)  # of this process alone
    monkeypatch.setattr(Compute, "barrier", lambda self: events.append("barrier"))
    for local_rank, expected in ((0, ["download", "barrier"]), (1, ["barrier"])):
        events.clear()
        hellaswag.share(Compute("cpu", rank=8 + local_rank, world_size=16, local_rank=local_rank))
        assert events == expected


def test_a_checkpoint_brings_back_the_latest_validation_loss(tmp_path):
    write_shards(tmp_path, 100)

    def state(**values) -> State:
        model = tiny_model()
        optimizer = model.configure_optimizers(0.1, 1e-3, "cpu")
        loader = DataLoaderLite(2, 8, data_root=str(tmp_path))
        return State(model, optimizer, loader, replace(Settings()), **values)

    other = state()
    other.load_state_dict(state(step=7, val_loss=1.5).state_dict())
    assert (other.step, other.val_loss) == (7, 1.5)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    path = tmp_path / "model_00001.pt"
    torch.save({"model": {}, "config": {}, "surprise": Path("x")}, path)  # no plain dict
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        read_checkpoint(path)


def test_only_the_step_sees_the_compiled_model(run, monkeypatch):
    compiled, seen = object(), {}

    def see(name, result):
        return lambda model, *_: seen.update({name: model}) or result

    monkeypatch.setattr(train_gpt2, "compile_or_not", lambda *_: compiled)
    monkeypatch.setattr(hellaswag, "share", lambda *_: [{}])
    monkeypatch.setattr(train_gpt2, "train_step", see("step", torch.zeros(2)))
    for name in ("validation_loss", "hellaswag_accuracy", "print_samples"):
        monkeypatch.setattr(train_gpt2, name, see(name, 0.0))
    run(max_steps=1, eval_every=1, hellaswag_every=1, sample_every=1, save_every=1)
    assert seen.pop("step") is compiled
    assert [type(model) for model in seen.values()] == [GPT] * 3


@pytest.mark.parametrize("loss, norm", [(math.nan, 1.0), (4.5, math.inf)])
def test_a_loss_or_a_norm_that_is_not_finite_stops_the_run(run, monkeypatch, loss, norm):
    monkeypatch.setattr(train_gpt2, "train_step", lambda *_: torch.tensor([loss, norm]))
    with pytest.raises(UserError, match=f"step 0: loss {loss}, norm {norm}"):
        run()


def test_each_step_gets_its_rate_and_the_settings_of_the_run(tmp_path, monkeypatch):
    write_shards(tmp_path, 200)
    seen = []

    def step(model, optimizer, loader, compute, micro_steps, lr, grad_clip):
        decay = [group["weight_decay"] for group in optimizer.param_groups]
        seen.append((micro_steps, round(lr, 9), grad_clip, decay))
        return torch.zeros(2)

    monkeypatch.setattr(train_gpt2, "train_step", step)
    flags = f"--data_root {tmp_path} --eval_every 0 --B 2 --T 16 --total_batch_size 128"
    flags += " --max_steps 4 --warmup_steps 2 --max_lr 1e-3 --grad_clip 0.5 --weight_decay 0.2"
    main([*QUIET, str(tmp_path / "log"), *flags.split()])
    assert seen == [(4, lr, 0.5, [0.2, 0.0]) for lr in (5e-4, 1e-3, 1e-3, 5.5e-4)]


def test_the_clock_counts_the_update_alone_until_the_device_is_done(tmp_path, monkeypatch, capsys):
    write_shards(tmp_path, 200)
    write_shards(tmp_path, 200, split="val")
    now = 0.0

    def takes(seconds: float, result=None):
        def pass_time(*_):
            nonlocal now
            now += seconds
            return result

        return pass_time

    monkeypatch.setattr(train_gpt2.time, "perf_counter", lambda: now)
    monkeypatch.setattr(train_gpt2, "validation_loss", takes(100.0, 4.6))
    monkeypatch.setattr(train_gpt2, "train_step", takes(0.5, torch.zeros(2)))
    monkeypatch.setattr(Compute, "synchronize", takes(1.5))
    flags = f"--data_root {tmp_path} --max_steps 1 --B 1 --T 16 --total_batch_size 64"
    main([*QUIET, str(tmp_path / "log"), *flags.split()])
    assert "| dt: 2000.00ms | tok/sec: 32.00\n" in capsys.readouterr().out


def test_in_training_accuracy_is_acc_norm(monkeypatch, capsys):
    monkeypatch.setattr(hellaswag, "evaluate", lambda *_: (3, 5))
    assert hellaswag_accuracy(tiny_model(), [{}] * 8, Compute("cpu")) == 5 / 8
    assert capsys.readouterr().out == "HellaSwag accuracy: 5/8=0.6250\n"


@pytest.mark.parametrize(
    "vocab_size, limit, redo",
    [(90, 90, "train with --vocab_size 50304"), (50304, 50257, "write the shards again")],
)
def test_ids_that_the_model_or_the_tokenizer_does_not_know_are_refused(
    tmp_path, capsys, vocab_size, limit, redo
):
    np.save(tmp_path / "edufineweb_train_000000.npy", np.full(500, limit, dtype=np.uint16))
    flags = f"--data_root {tmp_path} --max_steps 1 --eval_every 0 --vocab_size {vocab_size}"
    with pytest.raises(SystemExit):
        main([*QUIET, str(tmp_path / "log"), *flags.split()])
    said = f"token id {limit} near position 0 of the data, expected ids under {limit}: {redo}"
    assert said in capsys.readouterr().err
