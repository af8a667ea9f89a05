"""One process against several, on the CPU."""

import os
import shutil
import threading
import time

import pytest
import torch
import torch.distributed as dist

import train_gpt2
from support.compute import Compute, distribute
from tiny import ROOT, TINY_FLAGS, losses, run, tiny_model
from train_gpt2 import train_step

FLAGS = [*TINY_FLAGS, *"--T 32 --total_batch_size 512 --max_steps 4 --val_tokens 3000".split()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(*FLAGS, "--B", "16", "--log_dir", str(tmp_path_factory.mktemp("log")))


@pytest.mark.parametrize("processes, B", [(2, 4), (4, 4)])
def test_several_processes_print_the_losses_of_one(alone, tmp_path, processes, B):
    together = run(*FLAGS, "--B", str(B), "--log_dir", str(tmp_path), processes=processes)
    assert losses(together) == pytest.approx(losses(alone), abs=5e-5)
    assert len(losses(together)) == 4  # rank 0 alone prints
    assert validation(together) == pytest.approx(validation(alone), abs=1e-4)


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


def test_a_user_s_mistake_is_told_once_by_rank_0():
    result = run(*FLAGS, "--B", "3", processes=2)
    assert result.stderr.count("error: --total_batch_size 512") == 1
    assert "exitcode  : 2" in result.stderr  # torchrun's own report


def test_threads_of_the_group_get_python_once_more_before_it_ends(monkeypatch):
    dropped, seen = threading.Event(), []

    def train(s, compute):  # leaves a thread behind that wants Python a moment later
        threading.Thread(target=lambda: (time.sleep(0.01), dropped.set())).start()

    monkeypatch.setattr(train_gpt2, "start_compute", lambda *_: Compute("cpu", world_size=2))
    monkeypatch.setattr(train_gpt2, "train", train)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: seen.append(dropped.is_set()))
    train_gpt2.main([*FLAGS, "--B", "4"])
    assert seen == [True]


class Rows:
    def next_batch(self):
        return torch.zeros(2, 2, 8, dtype=torch.long)


@pytest.fixture
def process_group():
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def test_gradients_are_averaged_once_per_step_not_per_micro_step(process_group):
    compute = Compute("cpu", world_size=2)  # two, for the switch; the group has only this one
    model = distribute(tiny_model(), compute)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    calls = []

    def count(state, bucket):
        calls.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, count)
    for micro_steps in (1, 4):
        calls.clear()
        train_step(model, optimizer, Rows(), compute, micro_steps, 0.0, 1.0)
        print(f"{micro_steps} micro-steps: {len(calls)} all-reduce(s) of gradients")
        assert len(calls) == 1  # one bucket: the model is small
