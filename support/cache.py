"""Keys and values of the tokens that were read, so that sampling reads each token once."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F


class Cache:
    """What attention needs of earlier tokens: their keys and values, layer by layer.

    A token's keys and values depend on it and on the tokens before it, so they stay the same
    while the row grows at its end.
    """

    def __init__(self, n_layer: int, room: int):
        """Room for `room` tokens in each row."""
        self.room, self.length = room, 0  # length: tokens read so far
        self.layers: list[torch.Tensor | None] = [None] * n_layer  # (2, B, nh, room, hs)

    def clear(self) -> None:
        self.length = 0

    def read(self, model: nn.Module, idx: torch.Tensor) -> torch.Tensor:
        """The first tokens, or the one that comes next: idx (B, T) -> model.hidden's (B, T, C)."""
        T = idx.size(1)
        assert T == 1 or self.length == 0  # else a mask would be needed: causal, but shifted
        pos = torch.arange(self.length, self.length + T, device=idx.device)
        attends = [partial(self.attend, layer) for layer in range(len(self.layers))]
        x = model.hidden(idx, pos, attends)
        self.length += T
        return x

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The new tokens' q, k and v, (B, nh, T, hs) -> what these read, (B, nh, T, hs)."""
        B, nh, T, hs = k.shape
        if self.layers[layer] is None:
            self.layers[layer] = k.new_empty(2, B, nh, self.room, hs)
        keys, values = self.layers[layer]
        end = self.length + T
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        keys, values = keys[:, :, :end], values[:, :, :end]
        return F.scaled_dot_product_attention(q, keys, values, is_causal=T > 1)
