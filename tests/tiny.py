"""Small things that several tests use."""
import torch

from train_gpt2 import GPT, GPTConfig


def tiny_model(seed: int = 0, **changes) -> GPT:
    """2 layers of width 16, 2 heads, 32 positions, vocabulary 100."""
    torch.manual_seed(seed)
    shape = dict(block_size=32, vocab_size=100, n_layer=2, n_head=2, n_embd=16)
    return GPT(GPTConfig(**{**shape, **changes}))


def logits(model: GPT, idx: torch.Tensor) -> torch.Tensor:
    return model(idx)[0]
