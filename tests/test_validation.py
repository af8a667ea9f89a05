"""Validation: fixed tokens, whatever B and the number of processes."""

import pytest
import torch
from torch.nn import functional as F

from support.cli import UserError
from support.compute import Compute
from tiny import TINY_FLAGS, losses, run, tiny_model, write_shards
from train_gpt2 import DataLoaderLite, validation_loss


def loss_with(folder, B: int, max_tokens: int, ranks: int = 1) -> float:
    total = 0.0
    for rank in range(ranks):  # what all_reduce adds up
        loader = DataLoaderLite(B, 8, rank, ranks, "val", str(folder))
        total += validation_loss(tiny_model(), loader, max_tokens, Compute("cpu"))
    return total


def test_it_is_the_mean_over_the_first_tokens_of_the_split(tmp_path):
    tokens = torch.from_numpy(write_shards(tmp_path, 100, 100, split="val").astype("int64"))
    x, y = tokens[:120].view(15, 8), tokens[1:121].view(15, 8)
    expected = F.cross_entropy(tiny_model()(x)[0].flatten(0, 1), y.flatten()).item()
    for B in (1, 4, 15, 64):  # 4: the last batch has three rows
        for ranks in (1, 2, 3):
            assert loss_with(tmp_path, B, 120, ranks) == pytest.approx(expected, abs=1e-5)


def test_it_never_wraps(tmp_path):
    tokens = torch.from_numpy(write_shards(tmp_path, 45, split="val").astype("int64"))
    x, y = tokens[:40].view(5, 8), tokens[1:41].view(5, 8)  # all whole rows there are
    expected = F.cross_entropy(tiny_model()(x)[0].flatten(0, 1), y.flatten()).item()
    assert loss_with(tmp_path, 2, 10**6) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("there, val_tokens", [(8, 100), (45, 7)])
def test_too_few_tokens_say_so(tmp_path, there, val_tokens):
    write_shards(tmp_path, there, split="val")
    with pytest.raises(UserError, match="7 tokens to validate on, expected T = 8 or more"):
        loss_with(tmp_path, 2, val_tokens)


def test_the_last_thing_evaluated_is_the_model_after_the_last_step(tmp_path):
    (tmp_path / "input.txt").write_text("To be, or not to be: that is the question. " * 200)
    result = run(*TINY_FLAGS, "--max_steps", "5", "--eval_every", "2", "--T", "32", cwd=tmp_path)
    kinds = [line.split()[0] for line in result.stdout.splitlines()]
    kinds = [kind for kind in kinds if kind in ("validation", "step")]
    v, s = "validation", "step"
    assert kinds == [v, s, s, v, s, s, v, s, v]
    assert len(losses(result)) == 5


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    (tmp_path / "input.txt").write_text("To be, or not to be: that is the question. " * 200)
    flags = "--max_steps 9 --eval_every 0 --warmup_steps 0 --grad_clip 1e38 --max_lr 1e38".split()
    result = run(*TINY_FLAGS, *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: step ") and "--max_lr" in result.stderr
    assert result.stderr.count("\n") == 1


def test_validation_keeps_nothing_for_a_backward_pass(tmp_path):
    write_shards(tmp_path, 100)
    model, kept = tiny_model(), []
    model.transformer.ln_f.register_forward_hook(lambda _, __, out: kept.append(out.requires_grad))
    validation_loss(model, DataLoaderLite(2, 8, data_root=str(tmp_path)), 16, Compute("cpu"))
    assert kept == [False]
