"""Going on with a trained model on another text."""

import json
import re
from pathlib import Path

import pytest

from support.compute import Compute
from support.plan import settle
from tiny import ROOT, TINY_FLAGS, error_of, run
from train_gpt2 import GPTConfig, Settings

FLAGS = "--device cpu --sample_every 0 --val_tokens 4000 --B 8 --total_batch_size 512".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """old.txt, new.txt, and a small model that was trained on old.txt, in log."""
    folder = tmp_path_factory.mktemp("finetune")
    text = (ROOT / "input.txt").read_text()
    (folder / "old.txt").write_text(text[:300_000])
    (folder / "new.txt").write_text(text[-60_000:])
    flags = f"--data_root {folder}/old.txt --log_dir {folder}/log --max_steps 60 --T 64".split()
    assert run(*FLAGS, *TINY_FLAGS, *flags, "--max_lr", "0.01").returncode == 0
    return folder


def validation_losses(folder: Path, *flags: str) -> list[float]:
    """On new.txt, at step 0 and after each 10 of 20 steps."""
    given = f"--data_root {folder}/new.txt --log_dir {folder}/new --max_steps 20 --eval_every 10"
    result = run(*FLAGS, *given.split(), *flags)
    assert result.returncode == 0, result.stderr
    return [float(loss) for loss in re.findall(r"validation loss: ([\d.]+)", result.stdout)]


def test_on_new_text_the_loss_falls_faster_than_from_scratch(folder):
    scratch = validation_losses(folder, *TINY_FLAGS, "--T", "64", "--max_lr", "0.01")
    finetuned = validation_losses(folder, "--init_from", str(folder / "log"), "--max_lr", "1e-3")
    print(f"from scratch {scratch}, from a trained model {finetuned}")
    assert finetuned[-1] < finetuned[0] < min(scratch)


def test_the_settings_are_the_trained_model_s(folder):
    validation_losses(folder, "--init_from", str(folder / "log"), "--max_steps", "1")
    s = json.loads((folder / "new" / "settings.json").read_text())["settings"]
    assert (s["n_layer"], s["n_head"], s["n_embd"], s["T"]) == (2, 2, 16, 64)


def test_a_finetuning_run_goes_on_without_what_it_began_with(folder, tmp_path):
    start = tmp_path / "start"
    (folder / "log").rename(start)
    try:
        validation_losses(folder, "--init_from", str(start), "--max_steps", "2")
    finally:
        start.rename(folder / "log")
    result = run(*"--resume 1 --max_steps 3 --device cpu --log_dir".split(), str(folder / "new"))
    assert result.returncode == 0 and "step     2 | " in result.stdout


GPT2, SMALL = GPTConfig(), GPTConfig(64, 50304, 4, 4, 128)


def settings(trained: GPTConfig, **given) -> Settings:
    return settle(Settings(), {"init_from": "a", **given}, Compute("cuda"), trained)


def test_the_defaults_do_not_wreck_the_model():
    s = settings(GPT2)
    assert (s.max_lr, s.min_lr) == (pytest.approx(6e-5), pytest.approx(6e-6))
    assert (s.T, s.total_batch_size, s.B, s.max_steps, s.warmup_steps) == (1024, 8192, 8, 200, 8)
    assert (s.eval_every, s.hellaswag_every, s.vocab_size) == (20, 0, 50257)
    s = settings(SMALL)
    assert (s.max_lr, s.T, s.total_batch_size) == (pytest.approx(2e-4), 64, 256)
    assert settings(GPTConfig(n_layer=48, n_head=25, n_embd=1600)).max_lr == pytest.approx(2e-5)
    assert settings(GPTConfig(n_layer=7)).max_lr == pytest.approx(6e-5)
    s = settings(GPT2, max_lr=1e-3, T=256, max_steps=5)
    assert (s.max_lr, s.T, s.max_steps) == (1e-3, 256, 5)


def test_another_shape_than_the_trained_model_s_is_refused(folder, capsys):
    init_from = ("--device", "cpu", "--init_from", str(folder / "log"))
    error = error_of(capsys, *init_from, "--n_layer", "3")
    assert f"--n_layer 3: {folder}/log has 2; leave it out" in error
    assert "--T 65 is over the block_size of" in error_of(capsys, *init_from, "--T", "65")


def test_a_size_is_that_of_a_new_model(folder, capsys):
    init_from = ("--device", "cpu", "--init_from", str(folder / "log"))
    error = error_of(capsys, *init_from, "--size", "gpt2", "--max_steps", "0")
    assert f"--size gpt2: {folder}/log has a shape of its own; leave it out" in error
