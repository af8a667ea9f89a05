"""The loss in chunks against the loss in one piece."""

from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from support import loss
from support.loss import chunked_cross_entropy
from tiny import tiny_model


def plain(x, weight, targets):
    return F.cross_entropy(F.linear(x, weight).float(), targets)


def problem(N, C=24, vocab=211):
    """Logits with a standard deviation of 5: some tokens are nearly sure, some nearly ruled out."""
    torch.manual_seed(N)
    x = torch.randn(N, C, requires_grad=True)
    weight = torch.randn(vocab, C, requires_grad=True)
    return x, weight, torch.randint(0, vocab, (N,))


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 rows in bfloat16, of 32 in fp32; tiles of 16."""
    monkeypatch.setattr(loss, "ROWS_CPU", 64)
    monkeypatch.setattr(loss, "TILE_CPU", 16)


@pytest.mark.parametrize("N", [1, 31, 32, 33, 200])
def test_loss_and_gradients_equal_the_plain_form(small_chunks, N):
    x, weight, targets = problem(N)
    expected = plain(x, weight, targets)
    expected_grads = torch.autograd.grad(3.0 * expected, (x, weight))
    loss = chunked_cross_entropy(x, weight, targets)
    grads = torch.autograd.grad(3.0 * loss, (x, weight))  # scaled from above, as by accumulation
    assert abs(loss.item() / expected.item() - 1) < 1e-6
    assert all(relative(g, e) < 1e-6 for g, e in zip(grads, expected_grads))


@pytest.mark.parametrize("N", [64, 65, 200])
def test_under_autocast_it_is_as_close_as_the_plain_form(small_chunks, N):
    x, weight, targets = problem(N)
    exact = torch.autograd.grad(plain(x, weight, targets), (x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.autograd.grad(plain(x, weight, targets), (x, weight))
        loss = chunked_cross_entropy(x, weight, targets)
        grads = torch.autograd.grad(loss, (x, weight))
    assert loss.dtype == grads[1].dtype == torch.float32
    for got, plain_bf16, best in zip(grads, rough, exact):
        assert relative(got, best) < 1.5 * relative(plain_bf16, best)


def test_under_autocast_loss_and_sum_of_chunks_stay_in_fp32(small_chunks):
    x, weight, targets = problem(200)
    with torch.autocast("cpu", torch.bfloat16), Watch() as watch:
        expected = plain(x, weight, targets)
        loss = chunked_cross_entropy(x, weight, targets)
    assert abs(loss.item() / expected.item() - 1) < 1e-5  # of the same bfloat16 logits
    sums = [o for o in watch.outputs if o.operation == "add_" and o.size == weight.numel()]
    assert [out.dtype for out in sums] == [torch.float32] * 3  # after the first of four chunks


def test_a_token_that_was_ruled_out_costs_a_finite_loss():
    x, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [500.0]])
    assert chunked_cross_entropy(x, weight, torch.tensor([0])).item() == 500.0


def test_without_gradients_only_the_loss_is_computed():
    x, weight, targets = problem(100)
    with torch.no_grad(), Watch() as watch:
        loss = chunked_cross_entropy(x, weight, targets)
    assert not loss.requires_grad
    assert [out.operation for out in watch.outputs].count("mm") == 1  # the logits
    torch.testing.assert_close(loss, plain(x, weight, targets).detach())


@dataclass
class Output:
    operation: str
    dtype: torch.dtype
    size: int
    place: int  # in memory


class Watch(TorchDispatchMode):
    """Sees what each operation gives out, forward and backward."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            name = function.overloadpacket.__name__
            self.outputs.append(Output(name, out.dtype, out.numel(), out.data_ptr()))
        return out


def outputs(loss_function, N=4096) -> list[Output]:
    x, weight, targets = problem(N)
    with Watch() as watch:
        loss_function(x, weight, targets).backward()
    return watch.outputs


def largest_tensor(loss_function) -> int:
    return max(out.size for out in outputs(loss_function))


def test_no_tensor_of_all_logits_exists():
    whole, chunked = largest_tensor(plain), largest_tensor(chunked_cross_entropy)
    print(f"largest tensor: {whole:,} numbers in one piece, {chunked:,} in chunks")
    assert whole == 4096 * 211 and chunked == whole // 8


def test_in_bfloat16_only_a_tile_of_logits_is_fp32():
    with torch.autocast("cpu", torch.bfloat16):
        seen = outputs(chunked_cross_entropy, N=1024)
    logits = max(out.size for out in seen if out.dtype == torch.bfloat16)
    tile = max(out.size for out in seen if out.operation == "softmax")
    print(f"{logits // 211:,} rows of logits in bfloat16, {tile // 211} at a time in fp32")
    assert logits == 1024 * 211 and tile == 64 * 211
    assert max(out.size for out in seen if out.dtype == torch.float32) == 1024 * 24  # x


def test_each_logit_is_exponentiated_once_and_nothing_is_filled_with_zeros():
    seen = outputs(chunked_cross_entropy)
    exponentials = "softmax", "log_softmax", "exp", "exp_", "logsumexp"
    assert sum(out.size for out in seen if out.operation in exponentials) == 4096 * 211
    zeros = "zeros", "zeros_like", "zero_", "fill_", "new_zeros"
    assert max(out.size for out in seen if out.operation in zeros) == 1  # the loss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Few tokens, so that each comes often."""
    torch.manual_seed(1)
    return torch.randint(0, 7, (3, 32)), torch.randint(0, 100, (3, 32))


def test_the_tied_weight_gets_both_of_its_gradients():
    idx, targets = batch()
    expected, model = tiny_model(), tiny_model()
    for _ in range(2):  # two micro-steps, added up
        F.cross_entropy(expected(idx)[0].flatten(0, 1), targets.flatten()).backward()
        model(idx, targets)[1].backward()
    for p, e in zip(model.parameters(), expected.parameters(), strict=True):
        assert relative(p.grad, e.grad) < 1e-5
    assert model.transformer.wte.weight.grad is model.lm_head.weight.grad


def test_the_tied_weight_s_gradients_meet_in_one_tensor():
    model, (idx, targets) = tiny_model(), batch()
    weight = model.lm_head.weight
    with Watch() as watch:
        model(idx, targets)[1].backward()
    places = {out.place for out in watch.outputs if out.size == weight.numel()}
    print(f"tensors of the weight's size besides it: {len(places - {weight.data_ptr()})}")
    assert places - {weight.data_ptr()} == {weight.grad.data_ptr()}


def test_the_model_s_loss_never_has_all_logits(small_chunks):
    model = tiny_model(vocab_size=1000)
    with Watch() as watch:
        model(*batch())[1].backward()
    weight = model.lm_head.weight.numel()
    largest = max(out.size for out in watch.outputs if out.size % 1000 == 0 and out.size > weight)
    assert largest == 32 * 1000  # of 96 rows
