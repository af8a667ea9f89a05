"""The trainer and the manifest of its shards: a changed token does not train on in silence."""

from pathlib import Path

import pytest
from test_stop import FLAGS

from support.shards import MANIFEST, add_to_manifest
from tiny import losses, run, write_shards


@pytest.fixture
def data(tmp_path) -> Path:
    """Two shards with a manifest."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "val"):
        write_shards(folder, 5000, split=split)
        add_to_manifest(folder / f"edufineweb_{split}_000000.npy")
    return folder


def flip_a_token(folder: Path) -> None:
    path = folder / "edufineweb_train_000000.npy"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def train(folder: Path, **how):
    where = ("--data_root", str(folder), "--log_dir", str(folder.parent / "log"))
    return run(*FLAGS, "--save_every", "100", *where, **how)


@pytest.mark.parametrize("processes", [0, 2])
def test_a_changed_token_stops_the_run_within_a_step_or_two(data, processes):
    flip_a_token(data)
    result = train(data, processes=processes)
    said = f"edufineweb_train_000000.npy in {data}: missing, or not what was written"
    assert result.returncode != 0 and result.stderr.count(said) == 1
    steps = result.stdout.count("| loss: ")
    print(f"a changed token was noticed after {steps} of 200 steps: {said}")
    assert 0 < steps < 100 and not list((data.parent / "log").glob("model_*"))


def test_whole_shards_train_and_shards_without_a_manifest(data):
    assert len(losses(train(data))) == 200
    (data / MANIFEST).unlink()
    flip_a_token(data)
    assert len(losses(train(data))) == 200
