"""What fewer bits do to a matmul."""

import numpy as np
import torch

from support.compute import Compute, has_bfloat16, start_compute
from tiny import tiny_model


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
    start_compute("cpu", None)
    assert torch.get_float32_matmul_precision() == "high"


def test_bfloat16_keeps_the_range_and_loses_precision():
    big = torch.tensor(3e38)
    assert torch.isfinite(big.bfloat16()) and not torch.isfinite(big.half())
    torch.manual_seed(0)
    a, b = torch.randn(2, 512, 512)
    error = relative_error((a.bfloat16() @ b.bfloat16()).float(), a @ b)
    assert 1e-3 < error < 1e-2


def test_autocast_computes_in_bfloat16_and_keeps_parameters_in_float32():
    model, compute = tiny_model(), Compute("cpu", torch.bfloat16)
    seen = {}
    matmuls = "transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc"
    others = "transformer.h.0.ln_1", "transformer.h.0", "transformer.ln_f"
    for name in (*matmuls, *others):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.dtype}))
    x, y = torch.randint(0, 100, (2, 2, 8))
    with compute.autocast():
        _, loss = model(x, y)
    loss.backward()
    assert {seen[name] for name in matmuls} == {torch.bfloat16}
    assert {seen[name] for name in others} == {torch.float32}  # LayerNorm, the residual stream
    assert loss.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


def test_bfloat16_is_the_default_only_in_hardware(monkeypatch):
    monkeypatch.setattr("support.compute.Path.read_text", lambda _: "flags: avx2 fma")
    assert not has_bfloat16("cpu")
    monkeypatch.setattr("support.compute.Path.read_text", lambda _: "flags: avx2 amx_bf16")
    monkeypatch.setattr("support.compute.Path.exists", lambda _: True)
    assert has_bfloat16("cpu")
    assert not has_bfloat16("mps")
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert has_bfloat16("cuda") == expected


def test_float32_means_no_autocast():
    with start_compute("cpu", "float32").autocast():
        assert not torch.is_autocast_enabled("cpu")
