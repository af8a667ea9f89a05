"""AdamW, clipping and who decays."""
import torch

from tiny import tiny_model
from train_gpt2 import Compute, train_step


class OneBatch:
    """A loader with one batch of random ids."""

    def __init__(self):
        torch.manual_seed(0)
        self.x, self.y = torch.randint(0, 100, (2, 4, 16))

    def next_batch(self):
        return self.x, self.y


def step(model, optimizer, grad_clip=1.0):
    return train_step(model, optimizer, OneBatch(), Compute("cpu"), 1e-3, grad_clip)


def adamw_by_hand(p, grads, lr, decay, betas=(0.9, 0.95), eps=1e-8):
    """Loshchilov & Hutter 2019, algorithm 2."""
    m = v = torch.zeros_like(p)
    for t, g in enumerate(grads, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        p = p - lr * (m_hat / (v_hat.sqrt() + eps) + decay * p)
    return p


def test_the_step_is_adamw_by_hand():
    p = torch.nn.Parameter(torch.randn(5))
    start, grads = p.detach().clone(), torch.randn(3, 5)
    optimizer = torch.optim.AdamW([p], 1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    torch.testing.assert_close(p.detach(), adamw_by_hand(start, grads, 1e-2, 0.1))


def test_a_large_gradient_is_clipped_and_its_norm_returned():
    model = tiny_model()
    x, y = OneBatch().next_batch()
    model(x, y)[1].backward()
    grads = [p.grad.clone() for p in model.parameters()]
    expected = torch.cat([g.flatten() for g in grads]).norm()
    model.zero_grad()
    kept = []

    class Keep(torch.optim.SGD):
        def step(self):
            kept.extend(p.grad.clone() for p in model.parameters())

    _, norm = step(model, Keep(model.parameters()), grad_clip=0.1)
    assert expected > 0.1
    torch.testing.assert_close(norm, expected)
    assert torch.cat([g.flatten() for g in kept]).norm() <= 0.1 * 1.0001
