"""Batches: which tokens are where."""
import torch

from train_gpt2 import batch_at, load_tokens


def test_a_batch_is_one_stretch_seen_twice():
    tokens = load_tokens("input.txt")
    x, y = batch_at(tokens, 100, B=4, T=8)
    assert x.shape == y.shape == (4, 8)
    assert torch.equal(y[:, :-1], x[:, 1:])  # the target is the next token
    assert torch.equal(y[:-1, -1], x[1:, 0])  # also where a row ends
    assert x.flatten().tolist() == tokens[100:132].tolist()
    assert y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_the_text_has_the_tokens_it_should():
    tokens = load_tokens("input.txt")
    assert (len(tokens), len(set(tokens.tolist()))) == (339_881, 11_724)
