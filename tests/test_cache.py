"""Sampling with a cache of keys and values: the same tokens, each of them read once."""

import pytest
import torch
from torch.nn import functional as F

from support.cache import Cache
from support.few_rows import FewRows
from tiny import tiny_model
from train_gpt2 import GPT, draw


@torch.no_grad()
def generate_without_cache(model: GPT, idx: torch.Tensor, count: int, **how) -> torch.Tensor:
    """The whole context is read again for each token."""
    for _ in range(count):
        logits, _ = model(idx[:, -model.config.block_size :])
        idx = torch.cat((idx, draw(logits[:, -1], **how)[:, None]), dim=1)
    return idx


def spread(model: GPT) -> GPT:
    """With larger weights, so that the tokens depend on positions and on who reads whom."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    torch.nn.init.normal_(model.transformer.wpe.weight, std=2)
    return model


@pytest.mark.parametrize("rows, T", [(1, 1), (1, 7), (3, 7), (3, 32), (2, 40)])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_the_same_tokens_as_without_a_cache(rows, T, temperature):
    """block_size is 32: all of them go past it."""
    model, idx = spread(tiny_model()), torch.randint(0, 100, (rows, T))
    how = [
        dict(top_k=20, temperature=temperature, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    ]
    expected = generate_without_cache(model, idx, 36, **how[0])
    assert torch.equal(model.generate(idx, 36, **how[1]), expected)


def test_the_logits_are_those_of_the_whole_context():
    """Before the window moves and after."""
    model, idx = spread(tiny_model()), torch.randint(0, 100, (2, 5))
    for token, got in model.next_tokens(idx, 40):
        expected = model(idx[:, -32:])[0][:, -1]
        assert (got - expected).abs().max() < 1e-5 * expected.std()
        idx = torch.cat((idx, token[:, None]), dim=1)


def tokens_read(model: GPT, T: int, max_new_tokens: int) -> list[int]:
    """How many tokens go through the model for each new one."""
    read = []
    hook = model.transformer.h[0].register_forward_hook(lambda _, x, __: read.append(x[0].size(1)))
    model.generate(torch.zeros(1, T, dtype=torch.long), max_new_tokens)
    hook.remove()
    return read


def test_each_token_is_read_once_until_the_window_moves():
    model = tiny_model()  # block_size 32
    read = tokens_read(model, 5, 28)
    print(f"read for 28 new tokens: {sum(read)}, without a cache {sum(range(5, 33))}")
    assert read == [5] + [1] * 27
    assert tokens_read(model, 5, 31) == [5] + [1] * 27 + [32] * 3
    assert tokens_read(model, 40, 2) == [32, 32]


def test_temperature_0_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert draw(logits, 50, 0, None).tolist() == [1, 0]
    assert draw(logits, 1, 1.0, None).tolist() == [1, 0]


@pytest.mark.parametrize("count", [10, 40])  # block_size is 32
def test_each_row_of_a_padded_batch_goes_on_as_if_alone(count):
    model, lengths = spread(tiny_model()), [1, 9, 4, 20]
    prompts = [torch.randint(0, 100, (1, length)) for length in lengths]
    padded = torch.cat([F.pad(prompt, (20 - prompt.size(1), 0), value=7) for prompt in prompts])
    together = model.next_tokens(padded, count, temperature=0, lengths=torch.tensor(lengths))
    alone = [model.next_tokens(prompt, count, temperature=0) for prompt in prompts]
    largest = 0.0
    for (tokens, logits), *rows in zip(together, *alone, strict=True):
        assert tokens.tolist() == [token.item() for token, _ in rows]
        expected = torch.cat([row for _, row in rows])
        largest = max(largest, ((logits - expected).abs().max() / expected.std()).item())
    print(f"prompts of 1, 9, 4 and 20 tokens, {count} more: the logits differ by {largest:.0e}")
    assert largest < 1e-5


def test_what_stands_in_the_padding_does_not_matter():
    model, lengths = spread(tiny_model()), torch.tensor([3, 5])
    idx = torch.randint(0, 100, (2, 5))
    other = idx.clone()
    other[0, :2] = 99 - other[0, :2]
    once, again = (
        model.generate(x, 8, temperature=0, lengths=lengths)[:, 5:] for x in (idx, other)
    )
    assert torch.equal(once, again)


def test_everything_reads_something():
    """Softmax over nothing is nan in some kernels, and 0 x nan would reach the other tokens."""
    _, mask = Cache(1, 5, padding=torch.tensor([3, 0])).skip_padding(torch.arange(5))
    assert mask.shape == (2, 1, 5, 5) and mask.any(dim=-1).all()


def test_a_new_token_goes_through_few_rows(monkeypatch):
    rows, linear = [], FewRows.linear

    def counted(self, x: torch.Tensor, *weights: torch.Tensor | None) -> torch.Tensor:
        rows.append(x.numel() // x.size(-1))
        return linear(self, x, *weights)

    monkeypatch.setattr(FewRows, "linear", counted)
    tiny_model().generate(torch.zeros(3, 4, dtype=torch.long), 2)
    assert rows == [12] * 8 + [3] + [3] * 9  # two layers of four, and the head


def test_the_smallest_temperature_is_the_likeliest_token():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    for temperature in (1e-3, 1e-30, 1e-320):
        assert draw(logits, 50, temperature, None).tolist() == [1, 0]


@pytest.mark.parametrize("lengths", [[0, 5], [5, 6], [-1, 5]])
def test_a_row_without_tokens_or_with_more_than_there_are_is_refused(lengths):
    idx = torch.zeros(2, 5, dtype=torch.long)
    with pytest.raises(AssertionError):
        tiny_model().generate(idx, 3, lengths=torch.tensor(lengths))


@torch.no_grad()
def test_a_token_for_which_there_is_no_room_is_not_dropped():
    model = tiny_model().eval()
    cache = Cache(2, room=4)
    cache.read(model, torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(AssertionError):
        cache.read(model, torch.zeros(1, 1, dtype=torch.long))
