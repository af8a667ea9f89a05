"""One process against several, on the CPU."""

import os
import shutil
import socket
import subprocess
import sys
import time
from subprocess import PIPE

import pytest
import torch
import torch.distributed as dist

from support.compute import Compute, distribute, leaving_the_group
from tiny import ROOT, TINY_FLAGS, TRAINER, losses, run, tiny_model
from train_gpt2 import train_step

FLAGS = [*TINY_FLAGS, *"--T 32 --total_batch_size 512 --max_steps 4 --val_tokens 3000".split()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(*FLAGS, "--B", "16", "--log_dir", str(tmp_path_factory.mktemp("log")))


COMPILED = """
import sys
from functools import partial
import torch
import train_gpt2
torch.compile = partial(torch.compile, backend="aot_eager", fullgraph=True)
train_gpt2.main(sys.argv[1:])
"""


@pytest.mark.parametrize("processes, compile", [(2, 1), pytest.param(4, 0, marks=pytest.mark.soak)])
def test_several_processes_print_the_losses_of_one(alone, tmp_path, processes, compile):
    """Those that compile do so without code generation, which takes its time."""
    script = tmp_path / "compiled.py"
    script.write_text(COMPILED)
    flags = [*FLAGS, "--B", "4", "--compile", str(compile), "--log_dir", str(tmp_path)]
    together = run(*flags, processes=processes, script=script if compile else TRAINER)
    assert losses(together) == pytest.approx(losses(alone), abs=5e-5)
    assert validation(together) == pytest.approx(validation(alone), abs=1e-4)
    assert len(losses(together)) == 4  # rank 0 alone prints
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 4 + 2  # and writes
    assert "torch.compile failed" not in together.stdout


def validation(result) -> list[float]:
    lines = result.stdout.splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith("validation loss")]


def test_hellaswag_is_the_same_on_one_and_two_processes(tmp_path):
    (tmp_path / "hellaswag").mkdir()
    shutil.copy(ROOT / "tests/data/hellaswag_8.jsonl", tmp_path / "hellaswag/hellaswag_val.jsonl")
    shutil.copy(ROOT / "input.txt", tmp_path)
    flags = [*FLAGS, *"--B 4 --max_steps 2 --sample_every 0 --eval_every 0".split()]
    flags += "--hellaswag_every 1".split()
    accuracies = []
    for processes in (0, 2):
        out = run(*flags, cwd=tmp_path, processes=processes).stdout.splitlines()
        accuracies.append([line for line in out if line.startswith("HellaSwag accuracy: ")])
    assert accuracies[0] == accuracies[1] and len(accuracies[0]) == 3
    assert accuracies[0][0].split("/")[1].startswith("8=")


def test_with_fewer_examples_than_processes_none_waits_for_the_others(tmp_path):
    """A rank without examples enters the sum all the same."""
    (tmp_path / "hellaswag").mkdir()
    [first, *_] = (ROOT / "tests/data/hellaswag_8.jsonl").read_text().splitlines()
    (tmp_path / "hellaswag/hellaswag_val.jsonl").write_text(first + "\n")
    shutil.copy(ROOT / "input.txt", tmp_path)
    flags = [*FLAGS, *"--B 4 --max_steps 1 --sample_every 0 --eval_every 0".split()]
    result = run(*flags, "--hellaswag_every", "1", cwd=tmp_path, processes=2, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("HellaSwag accuracy: ") == 2 and "/1=" in result.stdout


def two_machines(tmp_path, *flags: str) -> list[subprocess.CompletedProcess]:
    """A run of one process on each of two machines without a shared disk: folders a and b."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank, name in enumerate("ab"):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes=2",
            "--nproc_per_node=1",
        ]
        command += [f"--node_rank={rank}", "--master_addr=127.0.0.1", f"--master_port={port}"]
        command += [str(ROOT / "train_gpt2.py"), *FLAGS, "--B", "4", "--sample_every", "0", *flags]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "NO_PROXY": "*", "https_proxy": ""}
        nodes.append(
            subprocess.Popen(
                command, cwd=tmp_path / name, env=env, text=True, stdout=PIPE, stderr=PIPE
            )
        )
    outputs = [node.communicate(timeout=120) for node in nodes]
    return [
        subprocess.CompletedProcess(node.args, node.returncode, *output)
        for node, output in zip(nodes, outputs)
    ]


@pytest.fixture
def machines(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "input.txt", tmp_path / name)
    return tmp_path


@pytest.mark.soak
def test_what_only_one_machine_has_is_skipped_by_all(machines):
    (machines / "a" / "hellaswag").mkdir()
    shutil.copy(ROOT / "tests/data/hellaswag_8.jsonl", machines / "a/hellaswag/hellaswag_val.jsonl")
    a, b = two_machines(machines, *"--max_steps 1 --eval_every 0 --hellaswag_every 1".split())
    assert (a.returncode, b.returncode) == (0, 0), a.stderr + b.stderr
    assert "HellaSwag" not in a.stdout and b.stdout.count("HellaSwag is skipped: ") == 1


def test_a_checkpoint_that_only_one_machine_has_is_refused_by_all(machines):
    run(*FLAGS, *"--B 4 --max_steps 1 --eval_every 0 --sample_every 0".split(), cwd=machines / "a")
    before = (machines / "a/log/log.txt").read_text()
    a, b = two_machines(machines, *"--max_steps 2 --eval_every 0 --resume 1".split())
    assert a.returncode != 0 and b.returncode != 0
    assert a.stderr.count("are of steps [1, -1] (-1: there is none): copy the newest") == 1
    assert (machines / "a/log/log.txt").read_text() == before


def test_a_user_s_mistake_is_reported_once_by_rank_0():
    result = run(*FLAGS, "--B", "3", processes=2)
    assert result.stderr.count("error: --total_batch_size 512") == 1
    assert "exitcode  : 2" in result.stderr  # torchrun's own report


def test_processes_sleep_before_they_leave_the_group(monkeypatch):
    """Lesson 37 tells why, the soak test below shows it; no thread of ours could measure it."""
    calls = []
    monkeypatch.setattr(time, "sleep", lambda seconds: calls.append(f"sleep {seconds}"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroy"))
    with pytest.raises(ZeroDivisionError), leaving_the_group(Compute("cpu", world_size=2)):
        1 / 0  # noqa: B018
    assert calls == ["sleep 0.1", "destroy"]


LEAVING = """
import sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from support.compute import leaving_the_group, start_compute
sys.setswitchinterval(1.0)  # who has Python's lock keeps it: gloo's threads come late
compute = start_compute("cpu", "float32")
with leaving_the_group(compute):
    model = DistributedDataParallel(torch.nn.Linear(64, 64), gradient_as_bucket_view=True)
    for _ in range(20):
        model(torch.randn(4, 64)).sum().backward()
        compute.sum(torch.zeros(1))
"""


@pytest.mark.soak
def test_no_process_dies_at_the_end(tmp_path):
    """Without the sleep about one run in three does."""
    (tmp_path / "leaving.py").write_text(LEAVING)
    for _ in range(12):
        result = run(cwd=tmp_path, processes=4, script=tmp_path / "leaving.py")
        assert result.returncode == 0, result.stderr


class Rows:
    served = 0  # batches, so far

    def next_batch(self):
        self.served += 1
        return torch.zeros(2, 2, 8, dtype=torch.long)


@pytest.fixture
def process_group():
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def test_gradients_are_averaged_once_per_step_after_the_last_micro_step(process_group):
    compute = Compute("cpu", world_size=2)  # two, for the switch; the group has only this one
    model = distribute(tiny_model(), compute)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rows, calls = Rows(), []

    def record(state, bucket):
        calls.append(rows.served)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, record)
    train_step(model, optimizer, rows, compute, 1, 0.0, 1.0)
    train_step(model, optimizer, rows, compute, 4, 0.0, 1.0)
    train_step(model, optimizer, rows, compute, 4, 0.0, 1.0)
    print(f"all-reduces after micro-steps {calls} of 9")
    assert calls == [1, 5, 9]  # one bucket: the model is small
