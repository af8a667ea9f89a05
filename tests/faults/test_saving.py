"""Saving that fails, weights that are not worth it, and how many checkpoints are kept."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch

import hellaswag
from support import runs
from support.cli import UserError
from support.runs import Log, checkpoints, refuse_broken_weights, write_checkpoint
from support.tokenizer import get_encoding
from tiny import ROOT, TINY_FLAGS, run, tiny_model

FLAGS = [*TINY_FLAGS, *"--T 16 --total_batch_size 64 --eval_every 0 --sample_every 0".split()]
FLAGS += "--max_steps 6 --save_every 2".split()


def steps(log_dir) -> list[int]:
    return [step for step, _ in checkpoints(str(log_dir))]


def test_the_newest_checkpoints_are_kept(tmp_path):
    (tmp_path / "model_best.pt").touch()
    assert run(*FLAGS, "--keep", "2", "--log_dir", str(tmp_path)).returncode == 0
    assert steps(tmp_path) == [4, 6]
    assert run(*FLAGS, "--log_dir", str(tmp_path / "all")).returncode == 0
    assert steps(tmp_path / "all") == [2, 4, 6]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("failed")])
@pytest.mark.parametrize("fails_at, code, left", [(4, 0, [2, 6]), (6, 2, [2, 4])])
def test_a_full_disk_ends_only_what_needs_it(tmp_path, monkeypatch, error, fails_at, code, left):
    save = torch.save

    def full(checkpoint, file):
        if checkpoint["step"] == fails_at:
            file.write(b"half")
            raise error
        save(checkpoint, file)

    monkeypatch.setattr(torch, "save", full)
    result = run(*FLAGS, "--keep", "2", "--log_dir", str(tmp_path))
    said = result.stdout if code == 0 else result.stderr
    assert result.returncode == code and f"cannot write {tmp_path}/model_0000{fails_at}.pt" in said
    assert steps(tmp_path) == left and not list(tmp_path.glob("*.tmp"))


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = tiny_model()
    refuse_broken_weights(model, 7, "log")
    with torch.no_grad():
        model.lm_head.weight[3, 3] = torch.inf
    with pytest.raises(UserError, match="^step 7: the weights are not finite and are not saved"):
        refuse_broken_weights(model, 7, "log")


def test_a_run_asks_before_it_saves(tmp_path, monkeypatch):
    """The last update may break them, and no loss is computed after it."""
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self: self.param_groups[0]["params"][0].data.fill_(torch.nan),
    )
    result = run(*FLAGS, "--max_steps", "1", "--log_dir", str(tmp_path))
    assert result.returncode == 2 and "the weights are not finite" in result.stderr
    assert steps(tmp_path) == []


def test_hellaswag_of_broken_weights_is_no_accuracy():
    model = tiny_model(vocab_size=50257)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    examples = hellaswag.load_examples(ROOT / "tests" / "data" / "hellaswag_8.jsonl")[:2]
    with pytest.raises(UserError, match="losses are not finite"):
        hellaswag.evaluate(model, examples, get_encoding(), "cpu")


def test_a_checkpoint_that_fails_keeps_all_others(tmp_path, monkeypatch):
    for step in (1, 2):
        write_checkpoint(str(tmp_path), {"step": step})
    monkeypatch.setattr(runs, "whole_file", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_checkpoint(str(tmp_path), {"step": 3}, keep=1)
    assert steps(tmp_path) == [1, 2]


def fail_with(code: int):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


def keep_files_short(log_txt: Path) -> None:
    """No file can grow beyond half of the line that comes next."""
    size = log_txt.stat().st_size + 5
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("how", ["limit", errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_under_log_txt_ends_the_run_and_keeps_its_checkpoint(
    tmp_path, monkeypatch, how
):
    """Also where half of a line was written; a run that goes on has each line once."""
    whole, log_dir = tmp_path / "whole", tmp_path / "log"
    assert run(*FLAGS, "--log_dir", str(whole)).returncode == 0
    write = Log.write

    def full_at_step_3(log, step, stream, value):
        if step == 3 and how == "limit":
            keep_files_short(log.path)
        elif step == 3:
            monkeypatch.setattr(Path, "open", fail_with(how))
        write(log, step, stream, value)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", full_at_step_3)
        try:
            result = run(*FLAGS, "--log_dir", str(log_dir))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    monkeypatch.undo()
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"cannot write {log_dir}/log.txt (" in result.stderr
    assert steps(log_dir) == [2]
    assert run("--resume", "1", "--device", "cpu", "--log_dir", str(log_dir)).returncode == 0
    assert (log_dir / "log.txt").read_text() == (whole / "log.txt").read_text()
