"""A linear layer of a few rows, on a CPU: as fast as its weight can be read."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FEW = 8  # from about here on F.linear is as fast


class FewRows(TorchFunctionMode):
    """`with FewRows():` F.linear, and so nn.Linear, is faster for a few rows on a CPU.

    Its weights must not change meanwhile.
    """

    def __init__(self):
        super().__init__()
        self.packed: dict[torch.Tensor, torch.Tensor] = {}  # by weight

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return (self.linear if func is F.linear else func)(*args, **(kwargs or {}))

    def linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """= F.linear(x, weight, bias): x (..., K), weight (N, K), bias (N) -> (..., N)."""
        if x.device.type != "cpu" or x.numel() // x.size(-1) > FEW:
            return F.linear(x, weight, bias)
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        if dtype == torch.bfloat16 and packs_bfloat16():
            return self.bfloat16_linear(x, weight, bias)
        if dtype == torch.float32 and len(weight) % torch.get_num_threads() == 0:
            return float32_linear(x, weight, bias)
        return F.linear(x, weight, bias)

    def bfloat16_linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """The weight is cast once, into the order in which oneDNN's kernel reads it; F.linear
        would put it into that order at every call."""
        ops = torch.ops.mkldnn  # what torch.compile uses, too, when weights are frozen
        if weight not in self.packed:
            self.packed[weight] = ops._reorder_linear_weight(weight.detach().bfloat16(), None)
        bias = None if bias is None else bias.bfloat16()
        return ops._linear_pointwise(x.bfloat16(), self.packed[weight], bias, "none", [], "")


def packs_bfloat16() -> bool:
    """Has oneDNN bfloat16 kernels for this CPU? Not for one without AVX-512 (or AVX-NE-CONVERT)."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def float32_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Each core multiplies a slice of the weight: the product of a matrix and one vector, left to
    itself, is computed by one core. The weight stands on the left, which is faster for 2 to 8
    rows, too."""
    parts, (N, K) = torch.get_num_threads(), weight.shape
    slices = weight.view(parts, N // parts, K)
    product = torch.bmm(slices, x.reshape(-1, K).t().expand(parts, -1, -1))  # (parts, N / parts, B)
    product = product.view(N, -1).t()
    return (product if bias is None else product + bias).reshape(*x.shape[:-1], N)
