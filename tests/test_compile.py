"""A compiled training step beside a raw model for the rest."""

import shutil
from functools import partial
from itertools import pairwise

import pytest
import torch
from functorch.compile import nop
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters

from support import loss
from support.compute import Compute, compile_or_not
from tiny import tiny_model


@pytest.fixture
def fast_compiler(monkeypatch):
    """torch.compile without code generation: the graphs are the same."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()


def test_compiled_training_and_raw_sampling_share_weights_and_never_recompile(fast_compiler):
    model = tiny_model()
    compiled = compile_or_not(model, Compute("cpu"), 1, B=2, T=8)
    assert compiled is not model
    graphs = counters["stats"]["unique_graphs"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randint(0, 100, (2, 2, 8))
    for step in range(3):
        compiled(x, y)[1].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.generate(x[:, : step + 1], 3)
        model(x[:1, : 5 + step], y[:1, : 5 + step])
    assert graphs > 0 and counters["stats"]["unique_graphs"] == graphs
    assert not any(name.startswith("_orig_mod") for name in model.state_dict())


def compare_with_eager(model, compiled):
    x, y = torch.randint(0, 100, (2, 2, 8))
    results = []
    for m in (model, compiled):
        model.zero_grad()
        loss = m(x, y)[1]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*results)


def test_compiled_and_eager_give_the_same_loss_and_gradients(fast_compiler):
    model = tiny_model()
    compare_with_eager(model, compile_or_not(model, Compute("cpu"), 1, B=2, T=8))


@pytest.fixture
def graphs(monkeypatch) -> list[torch.fx.GraphModule]:
    """What torch.compile makes of the forward passes to come, each as one graph (or it raises)."""
    seen = []

    def keep(graph, inputs):
        seen.append(graph)
        return graph

    monkeypatch.setattr(
        torch,
        "compile",
        partial(
            torch.compile, backend=aot_autograd(fw_compiler=keep, bw_compiler=nop), fullgraph=True
        ),
    )
    torch._dynamo.reset()
    return seen


def ancestors(node: torch.fx.Node) -> set[torch.fx.Node]:
    found, todo = set(), [node]
    while todo:
        new = set(todo.pop().all_input_nodes) - found
        found |= new
        todo += new
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_several_chunks_is_one_graph_that_picks_no_single_logit(
    graphs, monkeypatch, dtype
):
    monkeypatch.setattr(loss, "ROWS_CPU", 8)  # 2 chunks of 16 rows in bfloat16, 4 in fp32
    model, compute = tiny_model(), Compute("cpu", dtype)
    compiled = compile_or_not(model, compute, 1, B=2, T=8)
    [graph] = graphs
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    softmaxes = [call for call in calls if "_log_softmax" in str(call.target)]
    picks = [c for c in calls if "gather" in str(c.target) or "scatter" in str(c.target)]
    waits = all(ancestors(later) >= {earlier} for earlier, later in pairwise(softmaxes))
    order = "each after the one before" if waits else "in any order"
    print(f"{len(softmaxes)} chunks, {order}, {len(picks)} gathers and scatters")
    assert len(softmaxes) == (2 if dtype == torch.bfloat16 else 4)
    assert waits and not picks
    with compute.autocast():
        compare_with_eager(model, compiled)
    x, y = (torch.randint(0, 100, (2, 8)) for _ in range(2))  # each with memory of its own
    with compute.autocast(), torch.no_grad():
        validation = compiled(x, y)[1]
        torch.testing.assert_close(validation, model(x, y)[1], rtol=1e-5, atol=1e-5)
    with compute.autocast():
        compiled(x, y)
    assert len(graphs) == 2  # one to train, one to validate


@pytest.mark.skipif(not shutil.which("g++"), reason="inductor writes C++")
def test_the_code_that_the_compiler_writes_gives_the_eager_loss_and_gradients():
    torch._dynamo.reset()
    model = tiny_model(n_layer=1)
    compiled = compile_or_not(model, Compute("cpu"), 1, B=2, T=8)
    assert compiled is not model  # else it failed
    compare_with_eager(model, compiled)


def test_a_compiler_that_fails_leaves_the_eager_model_and_one_line(monkeypatch, capsys):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    torch._dynamo.reset()
    model = tiny_model()
    assert compile_or_not(model, Compute("cpu"), 1, B=2, T=8) is model
    out = capsys.readouterr().out
    assert out.startswith("torch.compile failed, going on without: ") and out.count("\n") == 1
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("rank, said", [(0, False), (2, True), (3, False)])
def test_if_one_compiler_fails_none_compiles_and_that_rank_says_so(
    fast_compiler, monkeypatch, capsys, rank, said
):
    """Ranks 2 and 3 of 4 fail."""
    if rank >= 2:
        broken = partial(torch.compile, backend=lambda graph, inputs: 1 / 0)
        monkeypatch.setattr(torch, "compile", broken)
    others = torch.tensor([0, 0, 1, 1])
    monkeypatch.setattr(
        Compute,
        "sum",
        lambda self, numbers: others.index_copy_(
            0, torch.tensor([self.rank]), numbers[self.rank : self.rank + 1]
        ),
    )
    model, compute = tiny_model(), Compute("cpu", rank=rank, world_size=4)
    assert compile_or_not(model, compute, 1, B=2, T=8) is model
    assert ("torch.compile failed on rank 2" in capsys.readouterr().out) == said


def test_a_cpu_does_not_compile_unless_asked():
    model = tiny_model()
    assert compile_or_not(model, Compute("cpu"), None, B=2, T=8) is model
    assert compile_or_not(model, Compute("cpu"), 0, B=2, T=8) is model


def test_the_first_step_finds_its_graphs_and_no_gradients(fast_compiler):
    model, compute = tiny_model(), Compute("cpu", torch.bfloat16)
    compiled = compile_or_not(model, compute, 1, B=2, T=8)
    assert all(p.grad is None for p in model.parameters())
    graphs = counters["stats"]["unique_graphs"]
    x, y = torch.randint(0, 100, (2, 2, 8))
    with compute.autocast():
        compiled(x, y)[1].backward()
    assert counters["stats"]["unique_graphs"] == graphs > 0


def test_out_of_memory_while_compiling_is_heard(monkeypatch):
    def full(graph, inputs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "compile", lambda model: full)
    with pytest.raises(torch.OutOfMemoryError):
        compile_or_not(tiny_model(), Compute("cpu"), 1, B=2, T=8)


def test_a_gpu_that_can_compiles_unless_told_not_to(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    model = tiny_model()
    assert compile_or_not(model, Compute("cuda"), 0, B=2, T=8) is model
