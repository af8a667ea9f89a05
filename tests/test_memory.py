"""What a step needs, on paper, against what the compiler keeps for the backward pass."""

from dataclasses import replace

import pytest
import torch
from functorch.compile import min_cut_rematerialization_partition, nop
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table

import support.loss
from support.compute import Compute
from support.plan import introduce, settle, step_memory
from train_gpt2 import GPT, GPTConfig, Settings

SHAPES = [
    (torch.bfloat16, dict(B=4, T=64, n_layer=2, n_embd=96)),
    (torch.float32, dict(B=2, T=128, n_layer=1, n_embd=64)),
]


def kept_bytes(s: Settings, dtype: torch.dtype) -> int:
    """The memory behind what the compiled forward pass hands to the backward pass."""
    storages = {}

    def count(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        (outputs,) = next(n for n in graph.graph.nodes if n.op == "output").args
        made = [n.meta["val"] for n in outputs if n.op != "placeholder"]
        for tensor in made:  # several of them may be views of one
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        return graph

    backend = aot_autograd(
        fw_compiler=count,
        bw_compiler=nop,
        decompositions=select_decomp_table(),  # what the real compiler, too, takes apart
        partition_fn=min_cut_rematerialization_partition,
    )
    torch._dynamo.reset()
    model = GPT(GPTConfig(s.T, s.vocab_size, s.n_layer, s.n_head, s.n_embd))
    x = torch.zeros(s.B, s.T, dtype=torch.long)
    with Compute("cpu", dtype).autocast():
        torch.compile(model, backend=backend)(x, x)
    return sum(storages.values())


@pytest.mark.parametrize("dtype, shape", SHAPES)
def test_what_is_kept_is_what_the_compiler_keeps(monkeypatch, dtype, shape):
    monkeypatch.setattr(support.loss, "ROWS_CPU", 64)  # several chunks
    s = replace(Settings(), vocab_size=304, n_head=4, **shape)
    paper = step_memory(s, dtype)
    copies = paper[f"matrices in {str(dtype).removeprefix('torch.')}"]
    expected = paper["kept for the backward pass"] + paper["the head's gradient"] + copies
    counted = kept_bytes(s, dtype)
    print(f"{s.B} x {s.T}, {dtype}: {expected:,} bytes on paper, {counted:,} counted")
    assert expected == pytest.approx(counted, rel=0.03)


def test_the_rest_is_the_model_s_size_and_the_chunk_s():
    s = Settings()
    with torch.device("meta"):
        model = GPT(GPTConfig(s.T, s.vocab_size))
    paper = step_memory(s, torch.bfloat16)
    parameters = sum(p.numel() for p in model.parameters())
    assert paper["weights, gradients, AdamW's two moments"] == 16 * parameters
    matrices = parameters - model.transformer.wpe.weight.numel()
    matrices -= sum(p.numel() for p in model.parameters() if p.dim() < 2)
    assert paper["matrices in bfloat16"] == 2 * matrices
    assert paper["a chunk's logits and their gradient"] == 2 * 16384 * 50304 * 2
    assert step_memory(replace(s, B=4), torch.bfloat16)["a chunk's logits and their gradient"] == (
        2 * 4 * 1024 * 50304 * 2
    )


def test_only_the_kept_tensors_grow_with_B():
    totals = []
    for B in (16, 32, 64):
        paper = step_memory(replace(Settings(), B=B), torch.bfloat16)
        parts = ", ".join(f"{size / 1e9:.1f} {what}" for what, size in paper.items())
        totals.append(sum(paper.values()))
        print(f"B = {B}: {totals[-1] / 1e9:.1f} GB = {parts}")
    assert totals[2] - totals[1] == 2 * (totals[1] - totals[0])


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_gpu_s_run_says_what_it_needs(device, monkeypatch, capsys):
    compute = Compute(device, torch.bfloat16)
    introduce(settle(Settings(), {}, compute), {}, compute)
    said = "memory of a compiled step, on paper: " in capsys.readouterr().out
    assert said == (device == "cuda")
