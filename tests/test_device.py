"""Which device is taken."""

import pytest
import torch
import torch.distributed as dist

import support.compute
from support.cli import UserError
from support.compute import Compute, peak_flops, pick_device, start_compute


@pytest.mark.parametrize(
    "cuda, mps, expected",
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_taken(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device() == expected


def test_the_type_of_a_device_has_no_number():
    assert Compute("cuda:3").device_type == "cuda"
    assert Compute("mps").device_type == "mps"


def start(device):
    return start_compute(device, None)


@pytest.mark.parametrize(
    "name, teraflops",
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", 70),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA L40", None),
    ],
)
def test_the_peak_is_known_by_the_name_of_the_card(monkeypatch, name, teraflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert peak_flops("cuda") == (teraflops and teraflops * 1e12)
    assert peak_flops("cpu") is None


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "tpu:0"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(UserError, match="expected cpu, cuda, cuda:N or mps"):
        start(device)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"found 2 GPU\(s\)"):
        start("cuda:2")


def test_all_processes_on_one_gpu_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in dict(RANK="1", LOCAL_RANK="1", WORLD_SIZE="2").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="cuda:0 puts all processes on one GPU: try --device cuda"):
        start("cuda:0")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in "02":  # 0 has a GPU, but it is the one that prints
        for name in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(name, rank)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, "4")
        with pytest.raises(UserError, match="4 processes .* 2 GPU.*--nproc_per_node=2"):
            start("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_gpu_is_taken():
    assert start(None).device_type == "cuda"


def test_to_device_returns_the_copies_that_are_on_the_device():
    x, y = Compute("meta").to_device(*torch.zeros(2, 3))
    assert x.device.type == y.device.type == "meta"


def test_the_clock_waits_for_the_gpu(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append("cuda"))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waits.append("mps"))
    for device in ("cuda:1", "mps", "cpu"):
        Compute(device).synchronize()
    assert waits == ["cuda", "mps"]


def test_the_peak_is_that_of_all_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert Compute("cuda", world_size=8).mfu(4 * 312e12) == 0.5
    assert Compute("cpu").mfu(1e12) is None


def test_a_barrier_is_for_several_processes(monkeypatch):
    met = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda: met.append(True))
    Compute("cpu").barrier()
    assert not met
    Compute("cpu", world_size=2).barrier()
    assert met == [True]


def test_a_process_takes_the_gpu_of_its_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(support.compute, "rendezvous", lambda *_, **__: iter([(None, 5, 8)]))
    ranks = dict(RANK="5", LOCAL_RANK="1", WORLD_SIZE="8", LOCAL_WORLD_SIZE="2")
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    compute = start_compute("cuda", "float32")
    assert (compute.device, compute.rank, compute.world_size) == ("cuda:1", 5, 8)
