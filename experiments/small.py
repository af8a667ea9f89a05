"""What experiments share: the trainer's small model (lesson 12) and its text."""

from pathlib import Path

import torch

from support.sizes import SIZES
from train_gpt2 import GPT, DataLoaderLite, GPTConfig

TEXT = str(Path(__file__).resolve().parent.parent / "input.txt")
T = SIZES["small"]["T"]


def small_model(seed: int = 0, **changes) -> GPT:
    """4 layers, 4 heads, width 128: 7.2M parameters, of which 6.4M are the embedding."""
    torch.manual_seed(seed)
    shape = {name: SIZES["small"][name] for name in ("n_layer", "n_head", "n_embd")}
    return GPT(GPTConfig(**{"block_size": T, "vocab_size": 50304, **shape, **changes}))


def text(B: int, split: str = "train") -> DataLoaderLite:
    """Batches of B rows of 64 tokens of input.txt."""
    return DataLoaderLite(B, T, 0, 1, split, TEXT)
