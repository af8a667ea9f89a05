"""What fewer bits do to a matmul."""

import numpy as np
import torch

from support.compute import Compute, has_bfloat16, start_compute
from tiny import tiny_model, write_shards
from train_gpt2 import (
    DataLoaderLite,
    hellaswag_accuracy,
    print_samples,
    train_step,
    validation_loss,
)


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


def test_steps_and_evaluations_multiply_in_the_dtype_of_the_run(tmp_path):
    write_shards(tmp_path, 100)
    model, compute = tiny_model(vocab_size=50304), Compute("cpu", torch.bfloat16)
    loader = DataLoaderLite(2, 8, data_root=str(tmp_path))
    seen = []
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    optimizer = torch.optim.SGD(model.parameters())
    train_step(model, optimizer, loader, compute, 1, 0.1, 1.0)
    validation_loss(model, loader, 16, compute)
    assert seen == [torch.bfloat16] * 2
    print_samples(model, compute)
    example = {"ctx": "He", "endings": ["runs.", "is.", "was.", "eats."], "label": 0}
    hellaswag_accuracy(model, [example], compute)
    assert set(seen) == {torch.bfloat16} and len(seen) == 2 + 24 + 1


def test_autocast_is_told_the_type_of_the_device():
    assert Compute("cuda:3", torch.bfloat16).autocast().device == "cuda"


def test_the_dtype_that_was_typed_is_taken(monkeypatch):
    for in_hardware, default in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("support.compute.has_bfloat16", lambda _, found=in_hardware: found)
        assert start_compute("cpu", None).dtype == default
        for name in ("float32", "bfloat16"):
            assert start_compute("cpu", name).dtype == getattr(torch, name)
