"""A compiled training step beside a raw model for the rest."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from tiny import tiny_model
from train_gpt2 import Compute, Settings, compile_or_not

SETTINGS = Settings(B=2, T=8, compile=1)


@pytest.fixture
def fast_compiler(monkeypatch):
    """torch.compile without code generation: the graphs are the same."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()


def test_compiled_training_and_raw_sampling_share_weights_and_never_recompile(fast_compiler):
    model = tiny_model()
    compiled = compile_or_not(model, SETTINGS, Compute("cpu"))
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


def test_compiled_and_eager_give_the_same_loss_and_gradients(fast_compiler):
    model = tiny_model()
    compiled = compile_or_not(model, SETTINGS, Compute("cpu"))
    x, y = torch.randint(0, 100, (2, 2, 8))
    results = []
    for m in (model, compiled):
        model.zero_grad()
        loss = m(x, y)[1]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*results)


def test_a_compiler_that_fails_leaves_the_eager_model_and_one_line(monkeypatch, capsys):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    torch._dynamo.reset()
    model = tiny_model()
    assert compile_or_not(model, SETTINGS, Compute("cpu")) is model
    out = capsys.readouterr().out
    assert out.startswith("torch.compile failed, going on without: ") and out.count("\n") == 1
    assert all(p.grad is None for p in model.parameters())


def test_a_cpu_does_not_compile_unless_asked():
    model = tiny_model()
    assert compile_or_not(model, replace(SETTINGS, compile=None), Compute("cpu")) is model
    assert compile_or_not(model, replace(SETTINGS, compile=0), Compute("cpu")) is model
