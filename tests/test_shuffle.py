"""Shuffled documents: each once an epoch, the same for everybody, and again after a restart."""

import json
import shutil

import numpy as np
import pytest
import torch

from support.stream import InOrder, Shuffled, document_begins, drawn
from support.tokenizer import EOT
from tiny import TINY_FLAGS, losses, run
from train_gpt2 import DataLoaderLite


def documents(count: int, seed: int = 0) -> list[np.ndarray]:
    """Of 1 to 30 tokens, each with its 50256."""
    rng = np.random.default_rng(seed)
    return [np.append(EOT, rng.integers(0, 100, rng.integers(0, 30))) for _ in range(count)]


def write(folder, *sizes: int, count: int = 40) -> list[np.ndarray]:
    """Shards of these sizes and a last one with the rest; documents run on across their ends."""
    tokens = np.concatenate(documents(count)).astype(np.uint16)
    shards = np.split(tokens, np.cumsum(sizes))
    folder.mkdir(exist_ok=True)
    for i, shard in enumerate(shards):
        np.save(folder / f"edufineweb_train_{i:06d}.npy", shard)
    np.save(folder / "edufineweb_val_000000.npy", tokens[:200])
    return shards


def pieces(tokens: np.ndarray) -> list[tuple[int, ...]]:
    """The documents of a stretch; what stands before the first 50256 is one, too."""
    cuts = [i for i in np.flatnonzero(tokens == EOT) if i > 0]
    return [tuple(part.tolist()) for part in np.split(tokens, cuts)]


def in_epochs(stream: InOrder, epochs: int) -> list[np.ndarray]:
    """What is read epoch by epoch, in steps of 7 tokens."""
    starts = range(0, epochs * stream.num_tokens, 7)
    tokens = np.concatenate([stream.read(start, 7) for start in starts])
    return np.split(tokens[: epochs * stream.num_tokens], epochs)


@pytest.mark.parametrize("sizes", [(), (100,), (33, 150, 1), (200, 60, 90, 31)])
def test_each_document_is_read_once_an_epoch_in_another_order(tmp_path, sizes):
    shards = write(tmp_path, *sizes)
    expected = sorted(piece for shard in shards for piece in pieces(shard))
    epochs = in_epochs(Shuffled(shards, seed=1), 3)
    by_shard = [sorted(np.concatenate(shards).tolist())] * 3
    assert [sorted(epoch.tolist()) for epoch in epochs] == by_shard
    if not sizes:  # no piece without a 50256, which would join the document before it
        assert [sorted(pieces(epoch)) for epoch in epochs] == [expected] * 3
    assert len({epoch.tobytes() for epoch in epochs}) == 3
    assert epochs[0].tobytes() != np.concatenate(shards).tobytes()


def test_neighbours_do_not_stay_neighbours(tmp_path):
    shards = write(tmp_path)
    for name, stream in {"files' order": InOrder(shards), "shuffled": Shuffled(shards, 1)}.items():
        first, second = map(pieces, in_epochs(stream, 2))
        kept = set(zip(first, first[1:], strict=False)) & set(zip(second, second[1:], strict=False))
        print(f"{name}: {len(kept)} of {len(first) - 1} neighbours are so in the next epoch, too")
    assert len(kept) < 5


def test_a_document_cut_by_the_end_of_a_shard_stays_two_pieces(tmp_path):
    shards = [np.array([EOT, 1, 2, EOT, 3], np.uint16), np.array([4, EOT, 5, 6], np.uint16)]
    read = {tuple(epoch.tolist()) for epoch in in_epochs(Shuffled(shards, 0), 40)}
    first, second = {(EOT, 1, 2, EOT, 3), (EOT, 3, EOT, 1, 2)}, {(4, EOT, 5, 6), (EOT, 5, 6, 4)}
    assert read == {a + b for a in first for b in second} | {b + a for a in first for b in second}


def test_the_order_follows_from_the_seed_alone(tmp_path):
    shards = write(tmp_path, 100, 100)
    a, b, c = (in_epochs(Shuffled(shards, seed), 2) for seed in (5, 5, 6))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    assert drawn(8, 1337, 0, 0).tolist() == [5, 1, 6, 7, 4, 0, 2, 3]  # for ever: a run goes on


def test_reading_begins_anywhere(tmp_path):
    shards = write(tmp_path, 100, 100)
    whole = np.concatenate(in_epochs(Shuffled(shards, 3), 3))
    for start in np.random.default_rng(0).integers(0, len(whole) - 50, 100):
        fresh = Shuffled(shards, 3)
        assert np.array_equal(fresh.read(int(start), 50), whole[start : start + 50])


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_documents_are_found_block_by_block(block):
    tokens = np.array([7, EOT, 1, EOT, EOT, 2], np.uint16)
    assert document_begins(tokens, block).tolist() == [0, 1, 3, 4]
    assert document_begins(tokens[1:], block).tolist() == [0, 2, 3]
    assert document_begins(tokens[:1], block).tolist() == [0]


def test_a_text_is_one_document_and_keeps_its_order():
    tokens = np.arange(50, dtype=np.uint16)
    assert np.array_equal(Shuffled([tokens], 9).read(20, 90), InOrder([tokens]).read(20, 90))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_and_every_B_share_one_order(tmp_path, ranks):
    write(tmp_path, 100, 100)
    alone = DataLoaderLite(24, 4, data_root=str(tmp_path), shuffle_seed=2)
    for B in (1, 2, 4):
        loaders = [
            DataLoaderLite(B, 4, rank, ranks, "train", str(tmp_path), shuffle_seed=2)
            for rank in range(ranks)
        ]
        alone.reset()
        for _ in range(5):
            rounds = range(24 // (B * ranks))
            x = torch.cat([loader.next_batch()[0] for _ in rounds for loader in loaders])
            assert torch.equal(x, alone.next_batch()[0])


FLAGS = [*TINY_FLAGS, *"--B 2 --T 16 --total_batch_size 32 --val_tokens 64 --seed 3".split()]
FLAGS += "--sample_every 0 --hellaswag_every 0 --eval_every 0 --dtype float32 --compile 0".split()


def test_a_run_goes_on_in_the_middle_of_a_shuffled_epoch(tmp_path):
    write(tmp_path / "data", 100, 100)
    data = ("--data_root", str(tmp_path / "data"), "--max_lr", "0.01", "--max_steps", "24")
    whole = run(*FLAGS, *data, "--log_dir", "whole", "--save_every", "10", cwd=tmp_path)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "model_00024.pt").unlink()
    rest = run(*FLAGS, *data, "--log_dir", "cut", "--resume", "1", cwd=tmp_path)
    assert losses(rest) == losses(whole)[20:]
    files = run(*FLAGS, *data, "--shuffle", "0", "--log_dir", "files", cwd=tmp_path)
    assert losses(files) != losses(whole)


def test_a_run_from_before_shuffling_goes_on_in_the_files_order(tmp_path):
    write(tmp_path / "data", 100, 100)
    data = ("--data_root", str(tmp_path / "data"), "--max_steps", "8", "--save_every", "4")
    whole = run(*FLAGS, *data, "--shuffle", "0", cwd=tmp_path)
    (tmp_path / "log" / "model_00008.pt").unlink()
    path = tmp_path / "log" / "model_00004.pt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["settings"].pop("shuffle") == 0
    torch.save(checkpoint, path)
    rest = run(*FLAGS, *data, "--resume", "1", cwd=tmp_path)
    assert losses(rest) == losses(whole)[4:]
    settings = json.loads((tmp_path / "log" / "settings.json").read_text())
    assert settings["settings"]["shuffle"] == 0


def test_validation_is_on_the_same_tokens_whatever_the_seed(tmp_path):
    write(tmp_path / "data", 100, 100)
    flags = [*FLAGS, "--data_root", str(tmp_path / "data"), "--eval_every", "1", "--max_steps", "0"]
    lines = [run(*flags, "--shuffle", on, cwd=tmp_path).stdout for on in "01"]
    found = [line for text in lines for line in text.splitlines() if "validation loss" in line]
    assert len(found) == 2 and found[0] == found[1]
