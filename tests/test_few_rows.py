"""Linear layers of a few rows: the same products, and the weights read as few times as possible."""

import pytest
import torch
from torch.nn import functional as F

from support.cache import Cache
from support.few_rows import FEW, FewRows, packs_bfloat16
from train_gpt2 import GPT, GPTConfig


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(1, 24), (4, 1, 24), (2, 4, 24), (3, 24)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_products_are_those_of_linear(threads, shape, has_bias):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(24, 36, bias=has_bias), torch.randn(shape)
    expected = layer(x)
    with FewRows():
        torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("has_bias", [True, False])
def test_under_autocast_the_products_are_bfloat16_s(has_bias):
    torch.manual_seed(0)
    layer, few_rows = torch.nn.Linear(24, 36, bias=has_bias), FewRows()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            x = torch.randn(3, 24)
            expected = layer(x)
            with few_rows:
                got = layer(x)
            assert got.dtype == torch.bfloat16
            torch.testing.assert_close(got, expected)


@pytest.mark.skipif(not packs_bfloat16(), reason="oneDNN has no bfloat16 for this CPU")
def test_a_weight_is_cast_once_and_kept_apart_from_others():
    torch.manual_seed(0)
    few_rows, layers = FewRows(), [torch.nn.Linear(24, 24) for _ in range(2)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), few_rows:
        once = [layer(torch.ones(1, 24)) for layer in layers]
        packed = list(few_rows.packed.values())
        again = [layer(torch.ones(1, 24)) for layer in layers]
    assert len(packed) == 2 and not torch.equal(*once)
    assert all(a is b for a, b in zip(few_rows.packed.values(), packed))
    assert all(map(torch.equal, once, again))


def slices_of(monkeypatch, x: torch.Tensor, N: int = 36) -> list[tuple[int, ...]]:
    """The shapes of the slices of the weight that are multiplied where FewRows is on."""
    shapes, bmm = [], torch.bmm

    def counted(slices: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(slices.shape))
        return bmm(slices, rows)

    monkeypatch.setattr(torch, "bmm", counted)
    layer = torch.nn.Linear(24, N)
    with FewRows():
        y = layer(x)
    assert y.shape == (*x.shape[:-1], N)
    return shapes


def test_in_fp32_each_core_has_its_slice(monkeypatch, threads):
    assert slices_of(monkeypatch, torch.randn(1, 24)) == [(threads, 36 // threads, 24)]


def test_many_rows_and_odd_widths_are_left_to_linear(monkeypatch, threads):
    assert slices_of(monkeypatch, torch.randn(FEW + 1, 24)) == []
    assert len(slices_of(monkeypatch, torch.randn(1, 24), N=35)) == (threads == 1)


@torch.no_grad()
def weights_read(rows: int) -> int:
    """By the layers of the 124M model, for one new token in each of so many rows."""
    with torch.device("meta"):
        model, idx = GPT(GPTConfig(vocab_size=50304)), torch.zeros(rows, 1, dtype=torch.long)
    read, cache = [], Cache(model.config.n_layer, 1)
    cache.few_rows.linear = lambda x, weight, bias=None: (
        read.append(weight.numel()) or F.linear(x, weight, bias)
    )
    assert cache.read(model, idx).shape == (rows, 50304)
    return sum(read)


def test_a_new_token_reads_each_matrix_once_whatever_the_number_of_rows():
    one, eight = weights_read(1), weights_read(8)
    print(f"a token reads {one:,} weights, 8 rows' tokens {eight:,}: {4 * one / 1e6:.0f} MB")
    assert one == eight == 12 * 12 * 768**2 + 50304 * 768
