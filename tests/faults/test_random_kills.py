"""kill -9 at random moments, ten times in a row: what comes out is as if there had been none."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_crash_points import contents
from test_dead_rank import assert_same, state
from test_stop import pid_of_rank

from support.runs import checkpoints
from support.shards import add_to_manifest
from test_fineweb import make_texts, write_source
from tiny import ROOT, TINY_FLAGS, TRAINER, write_shards

pytestmark = pytest.mark.soak
KILLS = 10
FLAGS = [*TINY_FLAGS, *"--T 16 --total_batch_size 64 --B 2 --vocab_size 100".split()]
FLAGS += "--max_steps 1000 --eval_every 25 --val_tokens 64 --sample_every 0".split()
FLAGS += "--save_every 10 --keep 2 --resume auto".split()
TORCHRUN = f"-m torch.distributed.run --standalone --nproc_per_node=2 --max-restarts={KILLS}"


def start(command: list, output: Path) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with output.open("a") as file:
        return subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=ROOT, env=env, stdout=file, stderr=file
        )


def let_it_get_on(process: subprocess.Popen, folder: Path, rng: random.Random) -> None:
    """Up to a moment while it starts, or soon after it has changed a file in the folder."""
    if rng.random() < 0.3:
        return time.sleep(rng.uniform(0, 3))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    while process.poll() is None:
        try:
            if before != {path: path.stat().st_mtime_ns for path in folder.glob("*.*")}:
                break
        except FileNotFoundError:  # removed meanwhile
            break
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.4))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, 3000, 2000)
    write_shards(folder, 300, split="val")
    for path in folder.glob("*.npy"):
        add_to_manifest(path)
    return folder


def finish(process: subprocess.Popen, output: Path) -> None:
    assert process.wait(300) == 0, output.read_text()[-3000:]


@pytest.mark.parametrize("seed", [0])
def test_training_on_one_process(tmp_path, data, seed):
    rng, output = random.Random(seed), tmp_path / "output"
    command = [TRAINER, *FLAGS, "--data_root", data, "--log_dir"]
    finish(start([*command, tmp_path / "whole"], output), output)
    (tmp_path / "log").mkdir()
    steps = []
    for _ in range(KILLS):
        process = start([*command, tmp_path / "log"], output)
        let_it_get_on(process, tmp_path / "log", rng)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was done before"
        steps.append(max((step for step, _ in checkpoints(str(tmp_path / "log"))), default=0))
    finish(start([*command, tmp_path / "log"], output), output)
    assert_as(tmp_path / "log", tmp_path / "whole")
    print(f"{KILLS} kills of one process, with a checkpoint of step {steps}: the same in the end")


@pytest.mark.parametrize("seed", [0])
def test_training_on_two_processes(tmp_path, data, seed):
    """torchrun starts both again."""
    rng, output = random.Random(seed), tmp_path / "output"
    command = [*TORCHRUN.split(), TRAINER, *FLAGS, "--data_root", data, "--log_dir"]
    finish(start([*command, tmp_path / "whole"], output), output)
    (tmp_path / "log").mkdir()
    process, pids, steps = start([*command, tmp_path / "log"], output), {0}, []
    for _ in range(KILLS):
        rank = rng.randrange(2)
        while (pid := new_process(rank, process.pid)) in pids:
            assert process.poll() is None, output.read_text()[-3000:]
            time.sleep(0.02)
        let_it_get_on(process, tmp_path / "log", rng)
        pids |= {new_process(rank, process.pid) for rank in range(2)}
        os.kill(pid, signal.SIGKILL)
        steps.append(max((step for step, _ in checkpoints(str(tmp_path / "log"))), default=0))
    finish(process, output)
    assert_as(tmp_path / "log", tmp_path / "whole")
    print(f"{KILLS} kills of one of two, with a checkpoint of step {steps}: the same in the end")


def new_process(rank: int, torchrun: int) -> int:
    """Its number, 0 while there is none."""
    try:
        return pid_of_rank(rank, torchrun)
    except AssertionError:
        return 0


def assert_as(log_dir: Path, whole: Path) -> None:
    assert (log_dir / "log.txt").read_text() == (whole / "log.txt").read_text()
    assert [step for step, _ in checkpoints(str(log_dir))] == [990, 1000]
    assert_same(state(log_dir), state(whole))
    assert not list(log_dir.rglob("*.tmp"))


@pytest.mark.parametrize("seed", [0])
def test_fineweb(tmp_path, seed):
    rng, output = random.Random(seed), tmp_path / "output"
    source = write_source(
        tmp_path / "source",
        {f"{name}.parquet": make_texts(20_000, seed=i) for i, name in enumerate("abcd")},
    )
    command = [ROOT / "fineweb.py", "--source", source, "--shard_size", "20000", "--out"]
    finish(start([*command, tmp_path / "whole"], output), output)
    (tmp_path / "out").mkdir()
    shards = []
    for _ in range(KILLS):
        process = start([*command, tmp_path / "out"], output)
        let_it_get_on(process, tmp_path / "out", rng)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was done before"
        shards.append(len(list((tmp_path / "out").glob("*.npy"))))
    finish(start([*command, tmp_path / "out"], output), output)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    print(f"{KILLS} kills of fineweb.py, with {shards} shards: the same in the end")
