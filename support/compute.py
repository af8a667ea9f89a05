"""Where a run computes, and how: what decides device, dtype and processes."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from support.cli import UserError

# ---------- What the hardware promises ----------------------------------------------------

# Multiplications and additions per second of bfloat16 matmuls, dense, as the makers state them.
# The first name that fits counts.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_type: str) -> float | None:
    """The peak of this process's GPU; None where it is not known."""
    if device_type != "cuda":
        return None
    name = torch.cuda.get_device_name()  # "NVIDIA A100-SXM4-80GB"; an A1000 is another card
    cards = (card for card in PEAK_FLOPS if re.search(rf"\b{card}\b", name))
    return PEAK_FLOPS.get(next(cards, ""))


def has_bfloat16(device_type: str) -> bool:
    """Whether the hardware multiplies in bfloat16; torch says yes even where it emulates it."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    if device_type != "cpu" or not cpuinfo.exists():
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpuinfo.read_text().split())


def pick_device() -> str:
    """The fastest one here: cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def use_large_pages() -> None:
    """Use memory pages of 2 MB, where the kernel offers them: far fewer page faults.

    Call it before the first tensor is made.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


# ---------- Device, dtype, processes ------------------------------------------------------

# How long a process waits for another that is there but does not answer. Rank 0 keeps them waiting
# while it downloads, draws samples, and writes a checkpoint to a slow disk.
PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Compute:
    """Where this process computes, and how; decided once, by start_compute."""

    device: str  # cpu, cuda, cuda:3, mps
    dtype: torch.dtype = torch.float32  # of the matmuls; parameters are always float32
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among the processes on this machine

    @property
    def device_type(self) -> str:
        """autocast and AdamW want "cuda", not "cuda:3"."""
        return self.device.split(":")[0]

    def autocast(self) -> AbstractContextManager:
        """For forward and loss: matmuls in `dtype`; LayerNorm and the loss stay in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device_type, self.dtype)

    def with_dtype(self, name: str | None) -> "Compute":
        """The same with another dtype, if one is named."""
        return self if name is None else replace(self, dtype=getattr(torch, name))

    def synchronize(self) -> None:
        """Wait for the device before reading the clock: Python runs ahead of a GPU."""
        if self.device_type == "cuda":
            torch.cuda.synchronize()
        elif self.device_type == "mps":
            torch.mps.synchronize()

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Copies on the device. Pinned memory lets Python go on before they have arrived."""
        if self.device_type == "cuda":
            return [t.pin_memory().to(self.device, non_blocking=True) for t in tensors]
        return [t.to(self.device) for t in tensors]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, number: int) -> list[int]:
        """Every process's number, by rank."""
        numbers = torch.zeros(self.world_size, dtype=torch.long, device=self.device)
        numbers[self.rank] = number
        return self.sum(numbers).tolist()

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    def print(self, text: str) -> None:
        """On rank 0 only."""
        if self.rank == 0:
            print(text, flush=True)

    def mfu(self, flops_per_second: float) -> float | None:
        """Model FLOPs utilization: the share of all processes' peak; None if that is not known."""
        peak = peak_flops(self.device_type)
        return None if peak is None else flops_per_second / (peak * self.world_size)


def start_compute(device: str | None, dtype: str | None) -> Compute:
    """Decide where to compute, and join the other processes where torchrun started some.

    Raises UserError for a device that is not there, and for a dtype that is not offered.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = device or pick_device()
    if world_size > 1 and device.startswith("cuda:"):
        raise UserError(f"--device {device} puts all processes on one GPU: try --device cuda")
    if world_size > 1 and device == "cuda":
        refuse_more_processes_than_gpus()
        device = f"cuda:{local_rank}"
    kind = use_device(device)
    torch.set_float32_matmul_precision("high")  # TF32 where there are tensor cores
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"--dtype {dtype}: expected float32 or bfloat16")
    dtype = dtype or ("bfloat16" if has_bfloat16(kind) else "float32")
    if world_size > 1:
        join(device, kind, world_size)
    return Compute(device, getattr(torch, dtype), rank, world_size, local_rank)


def join(device: str, kind: str, world_size: int) -> None:
    """Join the other processes. Raises UserError if they are not all there in time."""
    try:
        store, rank, _ = next(rendezvous("env://", timeout=PATIENCE))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(world_size):  # the count is one machine's own
            # torchrun's store outlives a restart: the addresses in it are of those that are gone.
            start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"start {start}", store)
        group = dict(store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
        if kind == "cuda":
            dist.init_process_group("nccl", device_id=torch.device(device), **group)
        else:
            dist.init_process_group("gloo", **group)
    except (ValueError, RuntimeError) as error:  # ValueError: a variable is not set
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{world_size} processes did not find each other ({reason}): start them by torchrun"
        ) from error


def refuse_more_processes_than_gpus() -> None:
    """On all processes alike, before they join: rank 0, which prints, has a GPU in any case."""
    processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > gpus:
        raise UserError(
            f"{processes} processes on a machine with {gpus} GPU(s): try torchrun with"
            f" --nproc_per_node={max(1, gpus)}, or --device cpu"
        )


def use_device(device: str) -> str:
    """The type of a device that is there; a GPU becomes the current one.

    Raises UserError for any other.
    """
    kind, _, index = device.partition(":")
    if not re.fullmatch("cpu|mps|cuda(:[0-9]{1,4})?", device):
        raise UserError(f"--device {device}: expected cpu, cuda, cuda:N or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: not available here, try --device cpu")
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        if int(index or 0) >= gpus:
            raise UserError(f"--device {device}: found {gpus} GPU(s); try --device cpu")
        torch.cuda.set_device(int(index or 0))
    return kind


@contextmanager
def leaving_the_group(compute: Compute) -> Iterator[None]:
    """Leave the process group at the end, even after an error.

    Raises UserError if a collective failed, as another process has ended or does not answer.
    """
    is_nccl = compute.device_type == "cuda"
    try:
        yield
        if is_nccl:
            compute.barrier()  # none leaves while another's kernels still wait for it
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it, before this is said
        raise UserError(
            f"another process ended, or did not answer for {PATIENCE.total_seconds():g} s; it may"
            " have said why; the same command with --resume auto goes on from the newest checkpoint"
        ) from error
    finally:
        if compute.world_size > 1:
            if not is_nccl:
                time.sleep(0.1)  # gloo's threads need Python once more, to drop what they summed
            dist.destroy_process_group()


@contextmanager
def hint_when_out_of_memory(B: int, T: int) -> Iterator[None]:
    """Running out of memory, on a GPU or (by its message) on a CPU, becomes a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(
            error
        ):
            raise
        smaller_B = (
            f"--B {B // 2}; more micro-steps make up for it, the optimisation stays the same"
        )
        hint = smaller_B if B > 1 else "a smaller --T, or a smaller model (--help lists sizes)"
        raise UserError(f"out of memory with B={B} rows of T={T}: try {hint}") from error


# ---------- The model on it ---------------------------------------------------------------


def compile_or_not(
    model: nn.Module, compute: Compute, wanted: int | None, B: int, T: int
) -> nn.Module:
    """The model compiled for training steps of B x T tokens, or as it is.

    wanted is 0, 1, or None: 1 if the GPU can. If compiling fails on any process, one line says
    so and none compiles: the slowest sets the pace of all.
    """
    able = compute.device_type == "cuda" and torch.cuda.get_device_capability() >= (7, 0)
    if not (able if wanted is None else wanted):
        return model
    compiled = torch.compile(model)
    x, y = torch.zeros(2, B, T, dtype=torch.long, device=compute.device)
    reason = ""
    try:  # the compiler starts at the first call, not above
        with compute.autocast():
            compiled(x, y)[1].backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the compiler or driver lacks, training goes on
        reason = str(error).strip().splitlines()[0]
    finally:
        model.zero_grad(set_to_none=True)
    failed = compute.gather(int(reason != ""))
    if 1 not in failed:
        return compiled
    if compute.rank == failed.index(1):
        where = f" on rank {compute.rank}" if compute.world_size > 1 else ""
        print(f"torch.compile failed{where}, going on without: {reason}", flush=True)
    return model


def distribute(model: nn.Module, compute: Compute) -> nn.Module:
    """The model in DistributedDataParallel, which averages the gradients of all processes."""
    if compute.world_size == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)
