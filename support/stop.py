"""Ctrl-C and SIGTERM, as a scheduler sends it: finish the step, save, and leave."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class Stop:
    """Whether this process was told to stop: by which signal, or for what reason."""

    signal: int = 0
    reason: str = ""

    def because_of(self, reason: str) -> None:
        self.reason = reason

    def beside(self, loss: torch.Tensor) -> torch.Tensor:
        """loss () -> (2), with 1 beside it where this process was told, else 0."""
        return torch.stack((loss, loss.new_tensor(float(self.signal > 0 or self.reason != ""))))

    def exit_code(self) -> int:
        """That of a process that a signal ended; of torchrun's, one may have heard it for all."""
        return 128 + (self.signal or signal.SIGTERM)


@contextmanager
def stopping_politely() -> Iterator[Stop]:
    """Meanwhile the first signal only leaves a note; the second ends the process at once."""
    stop, before = Stop(), {}

    def note(number: int, _: object) -> None:
        stop.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)
        if os.environ.get("RANK", "0") == "0":
            print(f"{signal.Signals(number).name}: stopping after this step", flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
