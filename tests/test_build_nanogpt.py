"""Checkpoints of karpathy/build-nanogpt: read, without running code from them."""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

from support.cli import UserError
from support.runs import read_checkpoint
from tiny import logits, tiny_model
from train_gpt2 import GPT, Settings, load_model


@dataclass
class GPTConfig:
    """As in build-nanogpt's train_gpt2.py."""

    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768


def save(path: Path, model: GPT, weights: dict[str, torch.Tensor], **changes) -> Path:
    """Write a checkpoint as their script does, which runs as __main__."""
    GPTConfig.__module__, GPTConfig.__qualname__ = "__main__", "GPTConfig"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["__main__"], "GPTConfig", GPTConfig, raising=False)
        config = GPTConfig(**asdict(model.config))
        torch.save(
            {"model": weights, "config": config, "step": 7, "val_loss": 3.5, **changes}, path
        )
    return path


def with_masks(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As older versions: each attention has a buffer called bias."""
    mask = torch.ones(32, 32).tril().view(1, 1, 32, 32)
    return weights | {f"transformer.h.{n}.attn.bias": mask for n in range(2)}


def compiled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As with use_compile = True."""
    return {f"_orig_mod.{name}": w for name, w in weights.items()}


@pytest.mark.parametrize("variant", [dict, with_masks, compiled])
def test_the_model_is_theirs(tmp_path, variant):
    theirs = tiny_model(seed=3)
    path = save(tmp_path / "model_00007.pt", theirs, variant(theirs.state_dict()))
    checkpoint = read_checkpoint(path)
    assert type(checkpoint["config"]) is dict
    assert checkpoint["config"] == asdict(theirs.config)
    assert (checkpoint["step"], checkpoint["val_loss"]) == (7, 3.5)
    assert list(checkpoint["model"]) == list(theirs.state_dict())
    idx = torch.randint(0, 100, (2, 32))
    assert torch.equal(logits(load_model(str(path)), idx), logits(theirs, idx))


class Runs:
    """An object whose pickle says: call this."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    proof = tmp_path / "proof"
    model = tiny_model()
    harm = Runs(os.system, (f"touch {proof}",))
    path = save(tmp_path / "model_00007.pt", model, model.state_dict(), config=harm)
    with pytest.raises(UserError, match="is not a complete checkpoint") as error:
        load_model(str(path))
    assert "\n" not in str(error.value) and not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # the file was dangerous indeed
    print("its command ran: with weights_only=True no, with weights_only=False yes")


@pytest.mark.parametrize(
    "harm",
    [Path("x"), Settings(), Runs(eval, ("1",)), Runs(os.system, ("true",))],
    ids=["Path", "another dataclass", "eval", "os.system"],
)
def test_other_classes_are_refused(tmp_path, harm):
    model = tiny_model()
    path = save(tmp_path / "model_00007.pt", model, model.state_dict(), surprise=harm)
    with pytest.raises(UserError, match="is not a complete checkpoint"):
        load_model(str(path))


@pytest.mark.parametrize(
    "config", [None, 5, {}, {"block_size": 32}, {**asdict(GPTConfig()), "bias": False}]
)
def test_another_script_s_checkpoint_is_refused(tmp_path, config):
    model = tiny_model()
    path = save(tmp_path / "model_00007.pt", model, model.state_dict(), config=config)
    with pytest.raises(UserError, match="holds something other than a checkpoint"):
        load_model(str(path))
