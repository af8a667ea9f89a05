"""What the hardware promises, and how to notice what it lacks."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Multiplications and additions per second of bfloat16 matmuls, dense, as the makers state them.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
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
    name = torch.cuda.get_device_name()  # "NVIDIA A100-SXM4-80GB"; an A1000 is none
    cards = (card for card in PEAK_FLOPS if re.search(rf"\b{card}\b", name))
    return PEAK_FLOPS.get(next(cards, ""))


def flops_per_token(model: nn.Module) -> float:
    """Multiplications and additions, forward and backward (PaLM, Chowdhery et al. 2022, app. B)."""
    c = model.config
    weights = sum(p.numel() for p in model.parameters()) - model.transformer.wpe.weight.numel()
    return 6 * weights + 12 * c.n_layer * c.n_embd * c.block_size


def speed(tokens: int, seconds: float, model: nn.Module, compute: Any) -> str:
    """How long a step took, its tokens per second and, for known GPUs, the share of the peak."""
    text = f"dt: {seconds * 1000:.2f}ms | tok/sec: {tokens / seconds:.2f}"
    peak = peak_flops(compute.device_type)
    if peak is None:
        return text
    mfu = flops_per_token(model) * tokens / seconds / (peak * compute.world_size)
    return f"{text} | mfu: {mfu:.1%}"


def has_bfloat16(device_type: str) -> bool:
    """Whether the hardware multiplies in bfloat16; torch also says yes where it emulates."""
    if device_type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    if device_type != "cpu" or not cpuinfo.exists():
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpuinfo.read_text().split())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of GPU memory or, by its allocator's text, of the CPU's."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
