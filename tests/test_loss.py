"""The loss in chunks against the loss in one piece."""
import pytest
import torch
from torch.nn import functional as F

import cross_entropy
from cross_entropy import chunked_cross_entropy


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


@pytest.mark.parametrize("N", [1, 63, 64, 65, 200])
def test_loss_and_gradients_equal_the_plain_form(monkeypatch, N):
    monkeypatch.setattr(cross_entropy, "ROWS_CPU", 64)
    x, weight, targets = problem(N)
    expected = plain(x, weight, targets)
    expected_grads = torch.autograd.grad(3.0 * expected, (x, weight))
    loss = chunked_cross_entropy(x, weight, targets)
    grads = torch.autograd.grad(3.0 * loss, (x, weight))  # scaled from above, as by accumulation
    assert abs(loss.item() / expected.item() - 1) < 1e-6
    assert all(relative(g, e) < 1e-6 for g, e in zip(grads, expected_grads))


def test_under_autocast_it_is_as_close_as_the_plain_form(monkeypatch):
    monkeypatch.setattr(cross_entropy, "ROWS_CPU", 64)
    x, weight, targets = problem(200)
    exact = torch.autograd.grad(plain(x, weight, targets), (x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        rough = torch.autograd.grad(plain(x, weight, targets), (x, weight))
        loss = chunked_cross_entropy(x, weight, targets)
        grads = torch.autograd.grad(loss, (x, weight))
    assert loss.dtype == grads[1].dtype == torch.float32
    for got, plain_bf16, best in zip(grads, rough, exact):
        assert relative(got, best) < 1.5 * relative(plain_bf16, best)


def test_a_token_that_was_ruled_out_costs_a_finite_loss():
    x, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [500.0]])
    assert chunked_cross_entropy(x, weight, torch.tensor([0])).item() == 500.0


def test_without_gradients_only_the_loss_is_computed():
    x, weight, targets = problem(100)
    with torch.no_grad():
        loss = chunked_cross_entropy(x, weight, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(x, weight, targets).detach())


def outputs(loss_function) -> list[tuple[str, int]]:
    """Each operation of forward and backward, and how many numbers it gives out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                seen.append((function.overloadpacket.__name__, out.numel()))
            return out

    x, weight, targets = problem(4096)
    with Watch():
        loss_function(x, weight, targets).backward()
    return seen


def largest_tensor(loss_function) -> int:
    return max(size for _, size in outputs(loss_function))


def test_no_tensor_of_all_logits_exists():
    whole, chunked = largest_tensor(plain), largest_tensor(chunked_cross_entropy)
    print(f"largest tensor: {whole:,} numbers in one piece, {chunked:,} in chunks")
    assert whole == 4096 * 211 and chunked <= 4096 * 24


def test_each_logit_is_exponentiated_once_and_nothing_is_filled_with_zeros():
    seen = outputs(chunked_cross_entropy)
    exponentials = "softmax", "log_softmax", "exp", "exp_", "logsumexp"
    assert sum(size for name, size in seen if name in exponentials) == 4096 * 211
    zeros = "zeros", "zeros_like", "zero_", "fill_", "new_zeros"
    assert max(size for name, size in seen if name in zeros) == 1  # the loss
