"""Small things that several tests use."""

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch

from train_gpt2 import GPT, GPTConfig, main

ROOT = Path(__file__).parent.parent
TRAINER = ROOT / "train_gpt2.py"


def tiny_model(seed: int = 0, **changes) -> GPT:
    """2 layers of width 16, 2 heads, 32 positions, vocabulary 100."""
    torch.manual_seed(seed)
    shape = dict(block_size=32, vocab_size=100, n_layer=2, n_head=2, n_embd=16)
    return GPT(GPTConfig(**{**shape, **changes}))


def logits(model: GPT, idx: torch.Tensor) -> torch.Tensor:
    return model(idx)[0]


TINY_FLAGS = "--device cpu --n_layer 2 --n_head 2 --n_embd 16".split()


def run_here(flags: tuple[str, ...], cwd: Path) -> subprocess.CompletedProcess:
    """In this process, which saves the seconds that torch takes to start; with one thread."""
    output, errors, code = StringIO(), StringIO(), 0
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(cwd)
    torch.set_num_threads(1)
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            main(list(flags))
    except SystemExit as stop:
        code = stop.code
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return subprocess.CompletedProcess(flags, code, output.getvalue(), errors.getvalue())


def error_of(capsys, *flags: str) -> str:
    """The one line that main(flags) ends with."""
    with pytest.raises(SystemExit) as stop:
        main(list(flags))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def run(
    *flags: str,
    cwd: Path = ROOT,
    processes: int = 0,
    script: Path = TRAINER,
    timeout: float = 300,
) -> subprocess.CompletedProcess:
    """Run train_gpt2.py FLAGS in cwd; under torchrun if processes > 0."""
    if processes == 0:
        return run_here(flags, cwd)
    command = [str(script), *flags]
    torchrun = "-m torch.distributed.run --standalone --nproc_per_node".split()
    command = [sys.executable, *torchrun, str(processes), *command]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )


def losses(result: subprocess.CompletedProcess) -> list[float]:
    """The losses of a run's step lines."""
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("step ")]
    return [float(line.split("loss: ")[1].split()[0]) for line in lines]


def write_shards(folder: Path, *sizes: int, split: str = "train", seed: int = 0) -> np.ndarray:
    """Random .npy shards of these sizes; returns all their tokens in order."""
    tokens = np.random.default_rng(seed).integers(0, 100, sum(sizes), dtype=np.uint16)
    for i, part in enumerate(np.split(tokens, np.cumsum(sizes)[:-1])):
        np.save(folder / f"edufineweb_{split}_{i:06d}.npy", part)
    return tokens
