"""Gradients of micro-batches against those of the whole batch."""

import torch

from support.compute import Compute
from tiny import tiny_model
from train_gpt2 import train_step


class Rows:
    """A loader that hands out 4 rows, B at a time."""

    def __init__(self, B: int):
        torch.manual_seed(0)
        x, y = torch.randint(0, 100, (2, 4, 16))
        self.batches = iter(list(zip(x.split(B), y.split(B))))

    def next_batch(self):
        return next(self.batches)


class Keep(torch.optim.SGD):
    """An optimizer that keeps the gradients and changes nothing."""

    def step(self):
        params = [p for group in self.param_groups for p in group["params"]]
        self.gradient = torch.cat([p.grad.flatten() for p in params])


def gradient(B: int) -> tuple[torch.Tensor, float]:
    model = tiny_model()
    optimizer = Keep(model.parameters())
    loss, _ = train_step(model, optimizer, Rows(B), Compute("cpu"), 4 // B, 1e-3, grad_clip=1e9)
    return optimizer.gradient, loss.item()


def test_4_x_1_and_2_x_2_equal_1_x_4():
    whole, loss = gradient(4)
    for B in (2, 1):
        parts, loss_of_parts = gradient(B)
        error = ((parts - whole).norm() / whole.norm()).item()
        print(f"{4 // B} micro-batches of {B}: relative error of the gradient {error:.1e}")
        assert error < 1e-5
        assert abs(loss_of_parts - loss) < 1e-5


def test_forgetting_the_division_is_wrong_by_the_number_of_micro_batches():
    torch.manual_seed(0)
    net, x, y = torch.nn.Linear(3, 1), torch.randn(4, 3), torch.randn(4, 1)
    whole = torch.autograd.grad(((net(x) - y) ** 2).mean(), net.weight)[0]
    for a, b in zip(x.split(1), y.split(1)):
        ((net(a) - b) ** 2).mean().backward()  # adds up means: nobody divides by 4
    torch.testing.assert_close(net.weight.grad, 4 * whole)


def test_the_printed_loss_keeps_no_graph():
    model = tiny_model()
    optimizer = Keep(model.parameters())
    loss, norm = train_step(model, optimizer, Rows(1), Compute("cpu"), 4, 1e-3, grad_clip=1.0)
    assert not loss.requires_grad and not norm.requires_grad
