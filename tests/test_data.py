"""Batches: which tokens are where."""
import numpy as np
import torch

from train_gpt2 import DataLoaderLite, load_tokens


def text_of(tmp_path, words: int) -> str:
    path = tmp_path / "text.txt"
    path.write_text(" word" * words)
    return str(path)


def test_a_batch_is_one_stretch_seen_twice():
    x, y = DataLoaderLite(4, 8).next_batch()
    assert x.shape == y.shape == (4, 8)
    assert torch.equal(y[:, :-1], x[:, 1:])  # the target is the next token
    assert torch.equal(y[:-1, -1], x[1:, 0])  # also where a row ends
    assert y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_consecutive_batches_join_without_gap_or_overlap():
    tokens, loader = load_tokens("input.txt"), DataLoaderLite(4, 8)
    batches = [loader.next_batch() for _ in range(5)]
    assert torch.cat([x.flatten() for x, _ in batches]).tolist() == tokens[:160].tolist()
    assert torch.cat([y.flatten() for _, y in batches]).tolist() == tokens[1:161].tolist()


def test_after_the_last_token_comes_the_first(tmp_path):
    loader = DataLoaderLite(2, 5, data_root=text_of(tmp_path, 7))
    loader.tokens = np.arange(7, dtype=np.uint16)
    x, y = loader.next_batch()
    assert x.tolist() == [[0, 1, 2, 3, 4], [5, 6, 0, 1, 2]]
    assert y.tolist() == [[1, 2, 3, 4, 5], [6, 0, 1, 2, 3]]
    assert loader.next_batch()[0].flatten().tolist() == [3, 4, 5, 6, 0, 1, 2, 3, 4, 5]
    loader.reset()
    assert torch.equal(loader.next_batch()[0], x)


def test_the_text_has_the_tokens_it_should():
    tokens = load_tokens("input.txt")
    assert (len(tokens), len(set(tokens.tolist()))) == (339_881, 11_724)


def test_the_rows_of_a_step_are_the_same_for_any_number_of_processes(tmp_path):
    alone = DataLoaderLite(12, 8).next_batch()[0]
    for ranks in (1, 2, 3, 4):
        loaders = [DataLoaderLite(12 // ranks, 8, rank, ranks) for rank in range(ranks)]
        assert torch.equal(torch.cat([ld.next_batch()[0] for ld in loaders]), alone)
