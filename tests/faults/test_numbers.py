"""Numbers that are too large, or none: one short line, and at once."""

from dataclasses import fields
from math import isqrt

import pytest
import torch
from test_data_faults import seconds

import fineweb
import hellaswag
import sample
from support.cli import UserError
from support.compute import Compute, hint_when_out_of_memory, use_device
from support.plan import largest_divisor, settle
from tiny import error_of
from train_gpt2 import Settings

INTEGERS = [f.name for f in fields(Settings) if f.metadata["kind"] is int]
FLOATS = [f.name for f in fields(Settings) if f.metadata["kind"] is float]
LONG = {n: "9" * n for n in (19, 400, 5000)}


def is_short(error: str) -> bool:
    return error.count("\n") == 1 and len(error) < 200


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("digits", LONG)
def test_a_whole_number_without_end(name, digits, capsys):
    with seconds(5):
        error = error_of(capsys, f"--{name}", LONG[digits])
    assert error.startswith(f"error: --{name}") and is_short(error)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", ["inf", "nan", "-inf", "1e400", LONG[400]])
def test_a_number_that_is_not_finite(name, value, capsys):
    error = error_of(capsys, f"--{name}={value}")
    assert error.startswith(f"error: --{name}") and is_short(error)


@pytest.mark.parametrize(
    "script, flags",
    [
        (sample, ["a.pt", "--temperature"]),
        (sample, ["a.pt", "--top_k"]),
        (sample, ["a.pt", "--max_new_tokens"]),
        (sample, ["a.pt", "--seed"]),
        (hellaswag, ["--limit"]),
        (fineweb, ["--shard_size"]),
        (fineweb, ["--shards"]),
        (fineweb, ["--nprocs"]),
    ],
)
@pytest.mark.parametrize("value", ["²", "inf", "nan", LONG[400], LONG[5000]])
def test_a_number_of_another_command(script, flags, value, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main([*flags, value])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and is_short(error)
    assert error.startswith(f"error: {flags[-1]}: expected a")


@pytest.mark.parametrize("device", ["cuda:²", "cuda:٣", f"cuda:{LONG[5000]}", "cpu:1", "cuda:-1"])
def test_a_device_that_is_none(device):
    with pytest.raises(UserError, match="expected cpu, cuda, cuda:N or mps"):
        use_device(device)


def test_the_largest_divisor():
    for n in range(1, 200):
        for limit in (1, 2, 7, isqrt(n), n, 10**12):
            expected = max(d for d in range(1, n + 1) if n % d == 0 and d <= max(1, limit))
            assert largest_divisor(n, max(1, limit)) == expected


@pytest.mark.parametrize(
    "B, batch, hint",
    [
        (10**10, 256, "--B 4"),
        (10**12, 10**12 - 11, "--total_batch_size 999999999936"),
        (10**12, 64 * (10**10 + 19), "--B 10000000019"),
        (7 * 10**9, 64 * (10**10 + 19), "--B 1"),  # a prime
    ],
)
def test_the_nearest_batch_is_named_at_once(B, batch, hint):
    with seconds(3), pytest.raises(UserError, match=f"try {hint}$"):
        settle(Settings(), {"B": B, "total_batch_size": batch}, Compute("cpu"))


@pytest.mark.parametrize("name", ["n_layer", "n_embd", "vocab_size", "T"])
def test_a_model_that_no_memory_holds_is_not_begun(name, capsys):
    flags = ("--device", "cpu", f"--{name}", str(10**9), "--total_batch_size", str(64 * 10**9))
    with seconds(5):
        error = error_of(capsys, *flags)
    assert "GB of weights, this machine has" in error and "try a smaller model" in error


def test_out_of_memory_with_one_row_does_not_blame_the_rows():
    for B, hint in ((8, "try --B 4; more micro-steps"), (1, "try a smaller --T, or a smaller")):
        with pytest.raises(UserError, match=hint), hint_when_out_of_memory(B, 1024):
            raise torch.OutOfMemoryError
