"""A run that is told to stop: the step is finished and saved, and nothing of it is lost."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import ROOT, TINY_FLAGS, run

FLAGS = [*TINY_FLAGS, *"--T 16 --total_batch_size 64 --B 2 --max_steps 200".split()]
FLAGS += "--sample_every 0 --eval_every 50 --val_tokens 64 --save_every 0".split()


def start(log_dir: Path, processes: int) -> subprocess.Popen:
    command = [str(ROOT / "train_gpt2.py"), *FLAGS, "--log_dir", str(log_dir)]
    if processes > 1:
        command = [
            *f"-m torch.distributed.run --standalone --nproc_per_node {processes}".split()
        ] + command
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen, words: str) -> str:
    """What is printed up to and with the line that has these words."""
    text = ""
    for line in process.stdout:
        text += line
        if words in line:
            return text
    raise AssertionError(f"{words!r} never came:\n{text}")


def pid_of_rank(rank: int, torchrun: int) -> int:
    """Of a process that this torchrun started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended, or is somebody else's
            continue
        if parent == torchrun and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"no rank {rank}")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> str:
    """log.txt of a run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(*FLAGS, "--log_dir", str(folder)).returncode == 0
    return (folder / "log.txt").read_text()


def last_step(log: str) -> int:
    return int(log.splitlines()[-1].split()[0])


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.soak)],
)
def test_the_step_is_finished_and_saved(tmp_path, expected, number, code):
    process = start(tmp_path, 1)
    wait_for(process, "step     5 |")
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait() == code
    log = (tmp_path / "log.txt").read_text()
    steps = last_step(log) + 1
    print(f"{number.name} during step {steps - 1}: exit code {code}, {rest.splitlines()[-2]}")
    assert f"{number.name}: stopping after this step" in rest
    assert rest.endswith(f"saved {tmp_path}/model_{steps:05d}.pt\nstopped; go on with --resume 1\n")
    assert expected.startswith(log) and steps < 200
    assert run("--resume", "auto", "--device", "cpu", "--log_dir", str(tmp_path)).returncode == 0
    assert (tmp_path / "log.txt").read_text() == expected


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_one_process_is_told_and_all_stop_after_the_same_step(tmp_path, expected):
    process = start(tmp_path, 2)
    wait_for(process, "step     5 |")
    os.kill(pid_of_rank(1, process.pid), signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait() != 0
    log = (tmp_path / "log.txt").read_text()
    assert f"model_{last_step(log) + 1:05d}.pt\nstopped; go on with --resume 1" in rest
    assert last_step(log) < 199
    assert run("--resume", "1", "--device", "cpu", "--log_dir", str(tmp_path)).returncode == 0
    whole = [line.split() for line in (tmp_path / "log.txt").read_text().splitlines()]
    same = [line.split() for line in expected.splitlines()]
    assert [line[:2] for line in whole] == [line[:2] for line in same]
    assert all(abs(float(a) - float(b)) < 1e-3 for (_, _, a), (_, _, b) in zip(whole, same))


def test_the_second_signal_ends_it_at_once():
    code = """if True:
        import os, signal, time
        from support.stop import stopping_politely
        with stopping_politely() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            print(stop.signal, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            print("still here")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.splitlines()[-1] == "15"


def test_auto_begins_where_there_is_nothing_and_goes_on_where_there_is(tmp_path):
    flags = (*FLAGS, *"--max_steps 2 --save_every 1 --resume auto --log_dir".split(), str(tmp_path))
    first, second = run(*flags), run(*flags)
    assert "goes on" not in first.stdout and "step     0 |" in first.stdout
    assert "has done its 2 steps" in second.stdout and "step     0 |" not in second.stdout
