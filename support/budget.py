"""What a training step must cost, on paper, and what it does cost.

A step is three kinds of work: matmuls, whose multiplications and additions are counted; attention,
which is small enough here to be measured; and all the rest, which only moves numbers through
memory, so that its bytes are counted. Divided by what the machine does alone, multiplying and
copying, these are a prediction. A profile of the true step then says where it is wrong.

The counts of bytes are those of the eager step: compiled, fewer numbers are moved.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from support.compute import Compute
from support.peers import Run

Settings = Any  # train_gpt2.Settings, which this module does not import

# ---------- The work, on paper ----------------------------------------------------------


def products(s: Settings) -> list[tuple[int, int]]:
    """(in, out) of every matrix that a token's numbers are multiplied with, the head last."""
    C = s.n_embd
    return s.n_layer * [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)] + [(C, s.vocab_size)]


def matmul_flops(s: Settings) -> int:
    """Of one micro-step: forward, for the input's gradient, and for the weight's; 2 each."""
    return 3 * 2 * s.B * s.T * sum(i * o for i, o in products(s))


def moved_bytes(s: Settings, size: int) -> dict[str, int]:
    """Bytes read and written in one step of one micro-step, by what moves them; size is the bytes
    of a number in the matmuls' dtype. What is read twice from the cache counts once."""
    N, C, V = s.B * s.T, s.n_embd, s.vocab_size
    weights = sum(i * o for i, o in products(s)) + s.T * C
    low = size < 4  # casts are made
    forward = 2 * 8 + 2 * (4 + size) * low  # two LayerNorms, fp32 to fp32, and a cast of each
    forward += 2 * size + 2 * (8 + size) + 4 * 2 * size  # heads side by side, additions, GELU
    backward = 4 * 3 * size + 2 * 12 + 2 * 12 + 2 * 2 * size  # GELU, LayerNorms, additions, heads
    backward += (2 + 2) * (4 + size) * low + 9 * size  # casts of gradients; those of the biases
    return {
        "between the matmuls": N * C * s.n_layer * (forward + backward),
        "the loss": N * V * 3 * size,
        "casts of weights and gradients": 2 * weights * (4 + size) * low,
        "clipping": 8 * weights,
        "norm and AdamW": (4 + 28) * weights,
    }


# ---------- What the machine does alone -------------------------------------------------


def seconds_of(run: Callable[[], Any], compute: Compute, times: int = 5) -> float:
    """The median, after two that do not count."""
    found = []
    for _ in range(2 + times):
        start = time.perf_counter()
        run()
        compute.synchronize()
        found.append(time.perf_counter() - start)
    return median(found[2:])


def copy_speed(compute: Compute, megabytes: int = 256) -> float:
    """Bytes per second, read and written, of one large copy."""
    a, b = torch.ones(2, megabytes * 2**18, device=compute.device)
    return 2 * a.nbytes / seconds_of(lambda: b.copy_(a), compute)


def matmul_speed(compute: Compute, side: int | None = None) -> float:
    """Multiplications and additions per second of a square matmul, which takes milliseconds."""
    side = side or (8192 if compute.device_type == "cuda" else 2048)
    a, b = torch.randn(2, side, side, device=compute.device, dtype=compute.dtype)
    return 2 * side**3 / seconds_of(lambda: a @ b, compute)


def step_matmuls(s: Settings, compute: Compute) -> Run:
    """All matmuls of a micro-step, each with a weight of its own, and nothing else."""
    how = dict(device=compute.device, dtype=compute.dtype)
    weights = [torch.randn(o, i, **how) for i, o in products(s)]
    inputs = {i: torch.randn(s.B * s.T, i, **how) for i in {i for i, _ in products(s)}}

    def run() -> None:
        for weight in weights:
            x = inputs[weight.size(1)]
            y = x @ weight.t()
            y @ weight
            y.t() @ x

    return run


def step_attention(s: Settings, compute: Compute) -> Run:
    """Attention of all layers, forward and backward."""
    shape = s.B, s.n_head, s.T, s.n_embd // s.n_head
    q, k, v = torch.randn(3, *shape, device=compute.device, dtype=compute.dtype)
    heads = [part.requires_grad_() for part in (q, k, v)]

    def run() -> None:
        for _ in range(s.n_layer):
            y = F.scaled_dot_product_attention(*heads, is_causal=True)
            torch.autograd.grad(y, heads, y)

    return run


# ---------- Where the time goes ---------------------------------------------------------

GROUPS = {  # of a profile, by parts of the kernels' names; the first that fits counts
    "attention": ("attention", "flash", "fmha", "sdpa"),
    "norm and AdamW": ("adam", "lpnorm", "linalg_vector_norm", "multi_tensor"),
    "matmuls": ("mm", "gemm", "cutlass", "nvjet", "splitk", "linear"),
}
REST = "the rest"


def group_of(name: str) -> str:
    """A kernel that the compiler fused has the names of all that it does, and is not a matmul."""
    name = name.lower()
    if name.startswith("triton_") and not name.startswith(("triton_tem", "triton_mm")):
        return REST
    return next((g for g, parts in GROUPS.items() if any(p in name for p in parts)), REST)


def profiled(step: Run, compute: Compute) -> dict[str, float]:
    """Seconds of one step by group: of the GPU's kernels, or of the operations on a CPU."""
    on_gpu = compute.device_type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as found:
        step()
        compute.synchronize()
    seconds = dict.fromkeys((*GROUPS, REST), 0.0)
    for event in found.key_averages():
        if not on_gpu:
            seconds[group_of(event.key)] += event.self_cpu_time_total / 1e6
        elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:  # a kernel
            seconds[group_of(event.key)] += event.self_device_time_total / 1e6
    return seconds
