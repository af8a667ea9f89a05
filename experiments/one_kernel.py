"""Lesson 22: how many operations does one update of AdamW call, and how long does it take?"""

import time
from collections import Counter
from statistics import median

import torch
from matplotlib.figure import Figure
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.drawing import panels
from experiments.small import small_model
from train_gpt2 import GPT, GPTConfig

FORMS = {
    "one by one": dict(foreach=False, fused=False),
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
}


class Count(TorchDispatchMode):
    """Counts what torch is asked to compute; reading a step number back is no computation."""

    def __init__(self):
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if name.startswith("aten.") and "local_scalar" not in name and "lift" not in name:
            self.calls[name.split(".")[1].strip("_")] += 1
        return function(*args, **(kwargs or {}))


def optimizer(model: GPT, form: dict) -> torch.optim.AdamW:
    groups = model.configure_optimizers(0.1, 1e-3, "meta").param_groups
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    fresh = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]
    updates = torch.optim.AdamW(fresh, lr=1e-3, betas=(0.9, 0.95), **form)
    updates.step()  # makes m and v
    return updates


def milliseconds(updates: torch.optim.AdamW, repeats: int) -> float:
    """The median, in time of this process: what others do on the machine does not count."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        updates.step()
        times.append(1000 * (time.process_time() - start))
    return median(times)


def draw(quick: bool) -> Figure:
    calls, times = [], []
    for name, form in FORMS.items():
        narrow = GPT(GPTConfig(n_layer=12, n_head=2, n_embd=8, vocab_size=50, block_size=8))
        updates = optimizer(narrow, form)
        with Count() as count:
            updates.step()
        calls.append(sum(count.calls.values()))
        times.append(milliseconds(optimizer(small_model(), form), 2 if quick else 15))
        print(f"{name:<12} {calls[-1]:5d} operations, small model {times[-1]:6.1f} ms")
        print("   ", ", ".join(f"{name} {n}" for name, n in sorted(count.calls.items())))
    figure, (left, right) = panels(2, height=2.4)
    for axes, values, form in ((left, calls, "{:,d}"), (right, times, "{:.1f}")):
        bars = axes.barh(list(FORMS), values, height=0.6)
        axes.bar_label(bars, [form.format(v) for v in values], padding=4)
        axes.invert_yaxis()
        axes.grid(False)
        axes.margins(x=0.3)
    left.set(xlabel="operations called, 148 tensors")
    left.xaxis.set_major_formatter("{x:,.0f}")
    right.set(xlabel="CPU ms for one update, small model")
    return figure
