"""The loop learns."""

import torch

from tiny import TINY_FLAGS, losses, run, tiny_model


def test_first_loss_is_what_knowing_nothing_costs():
    x, y = torch.randint(0, 100, (2, 4, 16))
    _, loss = tiny_model()(x, y)
    assert abs(loss.item() - 4.61) < 0.5  # -ln(1/100)


def test_the_loss_is_the_mean_over_all_positions():
    model = tiny_model()
    x, y = torch.randint(0, 100, (2, 4, 16))
    logprobs = torch.log_softmax(model(x)[0], dim=-1)
    expected = -logprobs.gather(-1, y[..., None]).mean()
    torch.testing.assert_close(model(x, y)[1], expected)


def test_crushes_one_batch():
    model = tiny_model()
    x, y = torch.randint(0, 100, (2, 4, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        _, loss = model(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1


def test_sampling_does_not_touch_training(tmp_path):
    flags = [*TINY_FLAGS, "--max_steps", "6", "--eval_every", "0"]
    (tmp_path / "input.txt").write_text("To be, or not to be: that is the question. " * 200)
    with_samples = run(*flags, "--sample_every", "2", cwd=tmp_path)
    without = run(*flags, "--sample_every", "0", cwd=tmp_path)
    assert with_samples.stdout.count("> Hello, I'm a language model,") == 4 * 4
    assert "> Hello" not in without.stdout
    assert losses(with_samples) == losses(without)
