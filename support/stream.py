"""The stream of tokens that a loader reads: one epoch after another, without an end."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from support.tokenizer import EOT

# Of a shard, in the order in which they are read: where each document begins in the file; and how
# many tokens come before each, and before the end.
Documents = tuple[np.ndarray, np.ndarray]


class InOrder:
    """The shards one after another, as they are."""

    def __init__(self, shards: list[np.ndarray]):
        self.shards = shards
        self.num_tokens = sum(map(len, shards))

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` tokens from position `start`."""
        parts = []
        while count > 0:
            parts.append(self.piece(start)[:count])
            start += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)

    def piece(self, position: int) -> np.ndarray:
        """The tokens from there on that lie side by side in a file."""
        i, offset = self.locate(range(len(self.shards)), position % self.num_tokens)
        return self.shards[i][offset:]

    def locate(self, order: Sequence[int], position: int) -> tuple[int, int]:
        """Whose turn it is when the shards are read in this order, and how much of it is read."""
        ends = np.cumsum([len(self.shards[i]) for i in order])
        turn = int(np.searchsorted(ends, position, side="right"))
        return turn, len(self.shards[order[turn]]) - int(ends[turn]) + position


class Shuffled(InOrder):
    """Each epoch in an order of its own: of the shards, and of the documents within each shard.

    The order follows from (seed, epoch), so all processes and all restarts have the same. Each
    document is read once an epoch, with the 50256 before it; one that a shard's end has cut stays
    two pieces. What is kept is where the documents begin, not a copy of their tokens; the next
    shard's are looked for in a thread while this one is read.
    """

    def __init__(self, shards: list[np.ndarray], seed: int):
        super().__init__(shards)
        self.seed = seed
        self.found: dict[tuple[int, int], Future[Documents]] = {}
        self.thread = ThreadPoolExecutor(1)

    def piece(self, position: int) -> np.ndarray:
        epoch, position = divmod(position, self.num_tokens)
        order = self.shard_order(epoch)
        turn, offset = self.locate(order, position)
        begins, bounds = self.documents(epoch, turn)
        i = int(np.searchsorted(bounds, offset, side="right")) - 1
        begin, length = begins[i], bounds[i + 1] - bounds[i]
        return self.shards[order[turn]][begin + offset - bounds[i] : begin + length]

    def shard_order(self, epoch: int) -> np.ndarray:
        return drawn(len(self.shards), self.seed, epoch, 0)

    def documents(self, epoch: int, turn: int) -> Documents:
        """Those of the shard whose turn it is; the following one's will be there in time."""
        last = turn + 1 == len(self.shards)
        keys = (epoch, turn), (epoch + 1, 0) if last else (epoch, turn + 1)
        self.found = {
            key: self.found.get(key) or self.thread.submit(self.shuffle, *key) for key in keys
        }
        return self.found[epoch, turn].result()

    def shuffle(self, epoch: int, turn: int) -> Documents:
        index = int(self.shard_order(epoch)[turn])
        begins = document_begins(self.shards[index])
        lengths = np.diff(begins, append=len(self.shards[index]))
        order = drawn(len(begins), self.seed, epoch, 1 + index)
        return begins[order], np.append(0, np.cumsum(lengths[order]))


def drawn(count: int, seed: int, epoch: int, what: int) -> np.ndarray:
    """0 to count - 1, in the order of the lots that they draw.

    These are raw bits, which stay the same from one version of numpy to the next; `what` tells the
    drawings of an epoch apart, as (seed, epoch) and (seed, epoch, 0) are the same seed to numpy.
    """
    lots = np.random.PCG64((seed, epoch, what)).random_raw(count)
    return np.argsort(lots, kind="stable")


def document_begins(shard: np.ndarray, block: int = 2**20) -> np.ndarray:
    """Where its documents begin: at 0, and at each 50256."""
    blocks = range(0, len(shard), block)
    found = np.concatenate([np.flatnonzero(shard[i : i + block] == EOT) + i for i in blocks])
    return found if 0 in found[:1] else np.append(0, found)
