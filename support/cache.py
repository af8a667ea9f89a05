"""Keys and values of the tokens that were read, so that sampling reads each token once."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from support.few_rows import FewRows


class Cache:
    """What attention needs of earlier tokens: their keys and values, layer by layer.

    A token's keys and values depend on it and on the tokens before it, so they stay the same
    while the row grows at its end.
    """

    def __init__(self, n_layer: int, room: int, padding: torch.Tensor | None = None):
        """Room for `room` tokens in each row, of which the first padding[b] are no text."""
        self.room, self.length = room, 0  # length: tokens read so far
        self.padding = padding  # (B)
        self.layers: list[torch.Tensor | None] = [None] * n_layer  # (2, B, nh, room, hs)
        self.few_rows = FewRows()

    def clear(self, moved: int) -> None:
        """Forget all: the rows now begin `moved` tokens later."""
        self.length = 0
        if self.padding is not None:
            self.padding = (self.padding - moved).clamp(min=0)

    def read(self, model: nn.Module, idx: torch.Tensor) -> torch.Tensor:
        """The first tokens, or the one that comes next, idx (B, T) -> the last one's logits,
        (B, vocab)."""
        T = idx.size(1)
        assert self.length + T <= self.room  # one more would be dropped without a word
        assert T == 1 or self.length == 0  # else a mask would be needed: causal, but shifted
        pos, mask = torch.arange(self.length, self.length + T, device=idx.device), None
        if self.padding is not None:
            pos, mask = self.skip_padding(pos)
        attends = [partial(self.attend, layer, mask) for layer in range(len(self.layers))]
        with self.few_rows:
            x = model.hidden(idx, pos, attends)
            logits = model.lm_head(x[:, -1])
        self.length += T
        return logits

    def skip_padding(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns (T) of the new tokens -> their positions (B, T), and the mask (B, 1, T, length)
        of what they read. Padding reads itself: a softmax over nothing would be nan."""
        if self.length == 0:
            assert ((self.padding >= 0) & (self.padding < len(queries))).all()  # no row is empty
        padding = self.padding[:, None, None]  # (B, 1, 1)
        keys = torch.arange(self.length + len(queries), device=queries.device)
        queries = queries[:, None]  # (T, 1)
        mask = (keys <= queries) & ((keys >= padding) | (keys == queries))  # (B, T, length)
        return (queries.T - self.padding[:, None]).clamp(min=0), mask[:, None]

    def attend(
        self,
        layer: int,
        mask: torch.Tensor | None,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
    ) -> torch.Tensor:
        """The new tokens' q, k and v, (B, nh, T, hs) -> what these read, (B, nh, T, hs)."""
        B, nh, T, hs = k.shape
        if self.layers[layer] is None:
            self.layers[layer] = k.new_empty(2, B, nh, self.room, hs)
        keys, values = self.layers[layer]
        end = self.length + T
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        keys, values = keys[:, :, :end], values[:, :, :end]
        is_causal = mask is None and T > 1
        return F.scaled_dot_product_attention(q, keys, values, mask, is_causal=is_causal)
