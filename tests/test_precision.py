"""What fewer bits do to a matmul."""
import numpy as np
import torch

from train_gpt2 import start_compute


def round_off(x: torch.Tensor, bits: int) -> torch.Tensor:
    """x with its lowest mantissa bits rounded away, as a tensor core reads it."""
    whole = x.numpy().view(np.uint32) + np.uint32(1 << (bits - 1))
    return torch.from_numpy((whole >> bits << bits).view(np.float32))


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def test_tf32_costs_a_matmul_a_few_parts_in_ten_thousand():
    torch.manual_seed(0)
    a, b = torch.randn(2, 512, 512)
    error = relative_error(round_off(a, 13) @ round_off(b, 13), a @ b)
    print(f"13 of 23 mantissa bits rounded away: relative error {error:.1e}")
    assert 1e-4 < error < 1e-3


def test_the_switch_is_set_once_in_one_place():
    torch.set_float32_matmul_precision("highest")
    start_compute("cpu")
    assert torch.get_float32_matmul_precision() == "high"
