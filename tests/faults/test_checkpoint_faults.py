"""Checkpoints that a disk or a person has changed: the right weights, or one line."""

import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from support.cli import UserError
from support.runs import newest_checkpoint, read_checkpoint
from tiny import tiny_model
from train_gpt2 import GPT


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    model = tiny_model()
    path = tmp_path_factory.mktemp("checkpoint") / "model_00004.pt"
    moments = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    checkpoint = {"model": model.state_dict(), "config": asdict(model.config), "step": 4}
    torch.save({**checkpoint, "optimizer": moments}, path)
    return path


def is_right(checkpoint: dict, expected: dict) -> bool:
    """The same numbers, bit for bit."""
    return checkpoint["step"] == 4 and all(
        torch.equal(checkpoint[part][name], value)
        for part in ("model", "optimizer")
        for name, value in expected[part].items()
    )


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One bit flipped, a stretch overwritten, cut off, or left out."""
    position, length = rng.randrange(len(content)), rng.randint(1, 2000)
    before, after = content[:position], content[position + length :]
    match rng.randrange(5):
        case 0:
            return before
        case 1:
            return before + after
        case 2:
            return before + rng.randbytes(length) + after
        case _:
            flipped = content[position] ^ (1 << rng.randrange(8))
            return before + bytes([flipped]) + content[position + 1 :]


def try_mutations(original: Path, folder: Path, count: int) -> dict[str, int]:
    """How reading ends: with the right numbers, a clear error, or wrong numbers."""
    expected, content = read_checkpoint(original), original.read_bytes()
    rng, path, ends = random.Random(0), folder / original.name, dict(right=0, refused=0, wrong=0)
    for _ in range(count):
        path.write_bytes(mutate(content, rng))
        try:
            checkpoint = read_checkpoint(path)
            GPT.from_checkpoint(checkpoint)
        except UserError as error:
            assert "\n" not in str(error)
            ends["refused"] += 1
            continue
        ends["right" if is_right(checkpoint, expected) else "wrong"] += 1
    return ends


def test_a_changed_checkpoint_is_refused_or_right(original, tmp_path):
    ends = try_mutations(original, tmp_path, 200)
    print("200 damaged checkpoints:", ", ".join(f"{n} {end}" for end, n in ends.items()))
    assert ends["wrong"] == 0 and ends["refused"] > 100


@pytest.mark.soak
def test_thousands_of_changed_checkpoints_are_refused_or_right(original, tmp_path):
    assert try_mutations(original, tmp_path, 5000)["wrong"] == 0


def test_a_changed_one_falls_back_to_the_one_before(original, tmp_path, capsys):
    shutil.copy(original, tmp_path / "model_00003.pt")
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model_00004.pt").write_bytes(content)
    assert is_right(newest_checkpoint(str(tmp_path)), read_checkpoint(original))
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("change", [{"n_layer": 3}, {"n_embd": 8}, {"vocab_size": 99}])
def test_weights_that_do_not_fit_the_config_are_refused(original, change):
    checkpoint = read_checkpoint(original)
    checkpoint["config"] |= change
    with pytest.raises(UserError, match=r"^the weights do not fit \{[^\n]*$"):
        GPT.from_checkpoint(checkpoint)
