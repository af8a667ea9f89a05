"""One of two processes ends without a word, or no longer answers, under gloo."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from test_stop import pid_of_rank, wait_for

from support import compute
from support.cli import UserError
from support.runs import newest_checkpoint
from tiny import ROOT, TINY_FLAGS, TRAINER, run

FLAGS = [*TINY_FLAGS, *"--T 16 --total_batch_size 64 --B 2 --vocab_size 50257".split()]
FLAGS += "--eval_every 50 --val_tokens 64 --sample_every 0 --save_every 20 --max_steps 100".split()
LINE = "another process ended, or did not answer for"
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")

IMPATIENT = """
import sys
from datetime import timedelta
import train_gpt2
from support import compute
compute.PATIENCE = timedelta(seconds=3)
train_gpt2.main(sys.argv[1:])
"""


def start(command: list, env: dict[str, str]) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True
    )


def torchrun(log_dir: Path, *options: str) -> subprocess.Popen:
    """Two processes, with --resume auto."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
    return start([*command, TRAINER, *FLAGS, "--resume", "auto", "--log_dir", log_dir], {})


@contextmanager
def two_started_by_hand(log_dir: Path, script: Path = TRAINER) -> Iterator[list[subprocess.Popen]]:
    """Two processes in the middle of their steps, without torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [script, *FLAGS, "--max_steps", "100000", "--log_dir", log_dir]
    ranks = [start(command, {**group, "RANK": str(rank)}) for rank in range(2)]
    try:
        wait_for(ranks[0], "step    25 |")
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def state(log_dir: Path) -> dict:
    checkpoint = newest_checkpoint(str(log_dir))
    return {**checkpoint["model"], **checkpoint["optimizer"]["state"], "rng": checkpoint["rng"]}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same(found[name], value)
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_the_other_process_ends_with_one_line(tmp_path, victim):
    with two_started_by_hand(tmp_path) as ranks:
        ranks[victim].kill()
        other = ranks[1 - victim]
        _, errors = other.communicate(timeout=60)
    print(f"rank {victim} was killed: {errors.strip()}")
    where = " on rank 1" if victim == 0 else ""
    assert other.returncode == 2 and errors.startswith(f"error{where}: {LINE} 600 s")
    assert errors.count("\n") == 1


@pytest.mark.soak
def test_a_process_that_does_not_answer_is_given_up(tmp_path):
    script = tmp_path / "impatient.py"
    script.write_text(IMPATIENT)
    with two_started_by_hand(tmp_path / "log", script) as ranks:
        ranks[1].send_signal(signal.SIGSTOP)
        _, errors = ranks[0].communicate(timeout=60)
    assert ranks[0].returncode == 2 and errors.startswith(f"error: {LINE} 3 s")


@needs_proc
@pytest.mark.soak
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_starts_them_again_and_nothing_is_lost(tmp_path, victim):
    whole = torchrun(tmp_path / "whole")
    process = torchrun(tmp_path / "log", "--max-restarts=2")
    wait_for(process, "step    25 |")
    pid = pid_of_rank(victim, process.pid)
    wait_for(process, "step    50 |")
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors.count(LINE) == 1, errors
    assert whole.wait(120) == 0
    assert_same(state(tmp_path / "log"), state(tmp_path / "whole"))
    texts = [(tmp_path / name / "log.txt").read_text() for name in ("log", "whole")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_process_is_waited_for_without_end(monkeypatch, device):
    asked = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **options: asked.append(options))
    monkeypatch.setattr(
        compute, "rendezvous", lambda _, **options: iter([(asked.append(options), 0, 2)])
    )
    compute.join(device, device, 2)
    assert [options["timeout"] for options in asked] == [timedelta(minutes=10)] * 2


LATE = """
import os
import sys
import time
import torch
from support.compute import leaving_the_group, start_compute
rank, start = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
if rank == "1" and start == "1":
    time.sleep(3)  # meanwhile only the addresses of the first start are there
compute = start_compute("cpu", "float32")
if start == "0":
    sys.exit(1)
with leaving_the_group(compute):
    sys.stdout.write(f"the sum is {compute.sum(torch.ones(1)).item()}\\n")
"""


@pytest.mark.soak
def test_a_start_after_the_first_does_not_find_those_that_are_gone(tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    command = "-m torch.distributed.run --standalone --nproc_per_node=2 --max-restarts=1".split()
    process = start([*command, tmp_path / "late.py"], {})
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and output.count("the sum is 2.0") == 2, errors


def test_processes_that_do_not_find_each_other(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes did not find each other .*MASTER_ADDR"):
        compute.start_compute("cpu", "float32")
    result = run(*FLAGS)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
