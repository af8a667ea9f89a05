"""AdamW, clipping and which parameters decay."""

import torch

from support.compute import Compute
from tiny import tiny_model
from train_gpt2 import GPT, GPTConfig, train_step


class OneBatch:
    """A loader with one batch of random ids."""

    def __init__(self):
        torch.manual_seed(0)
        self.x, self.y = torch.randint(0, 100, (2, 4, 16))

    def next_batch(self):
        return self.x, self.y


def step(model, optimizer, grad_clip=1.0):
    return train_step(model, optimizer, OneBatch(), Compute("cpu"), 1, 1e-3, grad_clip)


def adamw_by_hand(p, grads, lr, decay, betas=(0.9, 0.95), eps=1e-8):
    """Loshchilov & Hutter 2019, algorithm 2."""
    m = v = torch.zeros_like(p)
    for t, g in enumerate(grads, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        p = p - lr * (m_hat / (v_hat.sqrt() + eps) + decay * p)
    return p


def test_the_step_is_adamw_by_hand_with_decay_for_matrices_only():
    model = tiny_model()
    optimizer = model.configure_optimizers(weight_decay=0.1, learning_rate=1e-2, device_type="cpu")
    torch.manual_seed(1)
    grads = {n: torch.randn(3, *p.shape) for n, p in model.named_parameters()}
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    for i in range(3):
        for n, p in model.named_parameters():
            p.grad = grads[n][i].clone()
        optimizer.step()
    for n, p in model.named_parameters():
        expected = adamw_by_hand(start[n], grads[n], 1e-2, 0.1 if p.dim() >= 2 else 0.0)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6)


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


def groups_of(vocab_size: int) -> list[dict]:
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=vocab_size))
        return model.configure_optimizers(0.1, 6e-4, "meta").param_groups


def test_which_parameters_decay_and_which_do_not():
    for vocab_size, decayed in ((50257, 124_318_464), (50304, 124_354_560)):
        matrices, vectors = groups_of(vocab_size)
        assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
        assert (len(matrices["params"]), len(vectors["params"])) == (50, 98)
        assert sum(p.numel() for p in matrices["params"]) == decayed
        assert sum(p.numel() for p in vectors["params"]) == 121_344


def test_every_parameter_is_in_exactly_one_group():
    model = tiny_model()
    groups = model.configure_optimizers(0.1, 1e-3, "cpu").param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_fused_and_unfused_end_at_the_same_weights():
    results = []
    for device_type in ("cpu", "meta"):  # fused; not fused
        model = tiny_model()
        optimizer = model.configure_optimizers(0.1, 1e-3, device_type)
        assert optimizer.defaults["fused"] == (device_type == "cpu")
        for _ in range(10):
            step(model, optimizer)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    largest = (results[0] - results[1]).abs().max().item()
    print(f"largest difference of a weight after 10 steps: {largest:.1e}")
    assert largest < 1e-5


def test_a_gpu_and_a_cpu_have_one_kernel_for_all_parameters():
    model = tiny_model()
    fused = [
        model.configure_optimizers(0.1, 1e-3, device).defaults["fused"]
        for device in ("cuda", "cpu", "mps")
    ]
    assert fused == [True, True, False]
