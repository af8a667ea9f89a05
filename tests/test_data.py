"""Batches: which tokens are where."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from support.cli import UserError
from support.shards import load_shard, load_split
from tiny import ROOT, write_shards
from train_gpt2 import DataLoaderLite


def loader_of(folder, B, T, rank=0, ranks=1) -> DataLoaderLite:
    return DataLoaderLite(B, T, rank, ranks, "train", str(folder))


def test_a_batch_is_one_stretch_seen_twice(tmp_path):
    write_shards(tmp_path, 1000)
    x, y = loader_of(tmp_path, 4, 8).next_batch()
    assert x.shape == y.shape == (4, 8)
    assert torch.equal(y[:, :-1], x[:, 1:])  # the target is the next token
    assert torch.equal(y[:-1, -1], x[1:, 0])  # also where a row ends
    assert y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_the_stream_crosses_ends_of_shards_and_epochs(tmp_path):
    tokens = write_shards(tmp_path, 7, 1, 20, 5)
    stream = np.resize(tokens, 200)  # again and again
    loader = loader_of(tmp_path, 2, 5)
    batches = [loader.next_batch() for _ in range(19)]
    assert torch.cat([x.flatten() for x, _ in batches]).tolist() == stream[:190].tolist()
    assert torch.cat([y.flatten() for _, y in batches]).tolist() == stream[1:191].tolist()
    loader.reset()
    assert torch.equal(loader.next_batch()[0], batches[0][0])


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_rows_of_a_step_are_the_same_for_every_B_and_number_of_processes(tmp_path, ranks):
    tokens = write_shards(tmp_path, 50, 61)
    T, rows, steps = 4, 24, 3  # 96 tokens a step: not a multiple of a shard
    for B in (B for B in range(1, rows + 1) if rows % (B * ranks) == 0):
        loaders = [loader_of(tmp_path, B, T, rank, ranks) for rank in range(ranks)]
        for step in range(steps):
            micro = [[ld.next_batch() for ld in loaders] for _ in range(rows // (B * ranks))]
            x = torch.cat([x for x, _ in itertools.chain(*micro)]).flatten().tolist()
            y = torch.cat([y for _, y in itertools.chain(*micro)]).flatten().tolist()
            start = step * rows * T
            assert x == np.resize(tokens, 400)[start : start + rows * T].tolist()
            assert y == np.resize(tokens, 400)[start + 1 : start + rows * T + 1].tolist()


def test_every_token_is_a_target_once_per_epoch(tmp_path):
    write_shards(tmp_path, 30, 18)  # 48 tokens; numbered, to be told apart
    for path, start in zip(sorted(tmp_path.glob("*.npy")), (0, 30)):
        np.save(path, np.arange(start, start + len(np.load(path)), dtype=np.uint16))
    loaders = [loader_of(tmp_path, 2, 4, rank, 3) for rank in range(3)]
    for _ in range(2):  # epochs of two steps
        targets = [ld.next_batch()[1].flatten().tolist() for _ in range(2) for ld in loaders]
        assert sorted(itertools.chain(*targets)) == list(range(48))


def test_shards_of_llm_c_hold_the_same_tokens(tmp_path):
    tokens = np.arange(100, dtype=np.uint16)
    header = np.zeros(256, dtype=np.int32)
    header[:3] = 20240520, 1, 100
    path = tmp_path / "edu_fineweb_train_000001.bin"
    path.write_bytes(header.tobytes() + tokens.tobytes())
    assert np.array_equal(load_shard(path), tokens)
    path.write_bytes(header.tobytes() + tokens[:50].tobytes())
    with pytest.raises(UserError, match="50 tokens, its header says 100"):
        load_shard(path)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match="no header"):
        load_shard(path)


BROKEN = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "empty": lambda path: path.write_bytes(b""),
    "no tokens": lambda path: np.save(path, np.zeros(0, dtype=np.uint16)),
    "wrong dtype": lambda path: np.save(path, np.zeros(500, dtype=np.float32)),
    "wrong shape": lambda path: np.save(path, np.zeros((5, 100), dtype=np.uint16)),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_shard_is_named_in_one_line(tmp_path, what):
    write_shards(tmp_path, 500)
    BROKEN[what](next(tmp_path.glob("*.npy")))
    with pytest.raises(UserError, match="^[^\n]*train_000000.npy [^\n]*python fineweb.py$"):
        loader_of(tmp_path, 2, 4)


def test_a_folder_without_shards_says_what_to_type(tmp_path):
    with pytest.raises(UserError, match="no .*tokens in .*python fineweb.py"):
        load_split(str(tmp_path), "val")


def test_an_id_outside_the_vocabulary_is_refused(tmp_path):
    np.save(tmp_path / "edufineweb_train_000000.npy", np.full(500, 50257, dtype=np.uint16))
    with pytest.raises(UserError, match="token id 50257 near position 0"):
        loader_of(tmp_path, 2, 4).next_batch()


def test_a_text_has_nine_tenths_to_train_on_and_one_to_validate(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" word" * 1000)
    train, val = load_split(str(path), "train"), load_split(str(path), "val")
    assert (len(train[0]), len(val[0])) == (900, 100)


MEMORY = """
import sys
from train_gpt2 import DataLoaderLite
def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
loader = DataLoaderLite(64, 1024, data_root=sys.argv[1])
loader.next_batch()
before = private()
while loader.position < loader.num_tokens:
    loader.next_batch()
print(private() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_private_memory_does_not_grow_with_the_shard(tmp_path):
    np.save(tmp_path / "edufineweb_train_000000.npy", np.zeros(50_000_000, dtype=np.uint16))
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    grown = float(result.stdout)
    print(f"50M tokens read, private memory grew by {grown:.1f} MB")  # as uint16 they are 100 MB
    assert grown < 10


def test_a_shard_stays_on_the_disk_until_it_is_read(tmp_path):
    write_shards(tmp_path, 500)
    (shard,) = load_split(str(tmp_path), "train")
    assert isinstance(shard, np.memmap)
