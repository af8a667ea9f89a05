"""Lesson 12: how fast does this processor multiply, and how fast does it fetch?"""

import time

import torch
from matplotlib.figure import Figure

from experiments.drawing import GREEN, panels


def best(function, seconds: float) -> float:
    """CPU seconds of the fastest call: others use this machine, too."""
    found, end = [], time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def gigaflops(n: int, seconds: float) -> float:
    a, b, out = torch.randn(3, n, n)
    times = max(1, 10**7 // n**3)  # at least 20 MFLOP between two looks at the clock

    def multiply() -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return times * 2 * n**3 / best(multiply, seconds) / 1e9


def gigabytes(kilobytes: int, seconds: float) -> float:
    """Bytes read and written a second, copying from one tensor to another, together so large."""
    source = torch.ones(kilobytes * 128)  # 4 bytes each, half of it all
    target = torch.empty_like(source)
    times = max(1, 8192 // kilobytes)

    def copy() -> None:
        for _ in range(times):
            target.copy_(source)

    return times * kilobytes * 1024 / best(copy, seconds) / 1e9


def draw(quick: bool) -> Figure:
    torch.set_num_threads(1)
    seconds = 0.01 if quick else 1.5
    figure, (left, right) = panels(2, height=3.0)
    sizes = [16, 32, 64, 128, 256, 512] + [1024] * (not quick)
    found = [gigaflops(n, seconds) for n in sizes]
    print("GFLOP/s:", ", ".join(f"{n}: {x:.0f}" for n, x in zip(sizes, found)))
    left.plot(sizes, found, "o-")
    left.set(xscale="log", xlabel="n", ylabel="GFLOP/s", ylim=(0, None), title="n x n matmul, fp32")
    left.set_xticks(sizes, [str(n) for n in sizes], rotation=45)
    amounts = [16, 64, 256, 1024, 4096] + [16384, 65536, 262144] * (not quick)
    found = [gigabytes(kb, seconds) for kb in amounts]
    print("GB/s:", ", ".join(f"{kb} kB: {x:.0f}" for kb, x in zip(amounts, found)))
    right.plot(amounts, found, "o-", color=GREEN)
    right.set(xscale="log", xlabel="bytes of both tensors", ylabel="GB/s", ylim=(0, None))
    names = [f"{kb} kB" if kb < 1024 else f"{kb // 1024} MB" for kb in amounts]
    right.set_xticks(amounts, names, rotation=45)
    right.set(title="copy, read and written")
    for axes in (left, right):
        axes.minorticks_off()
    return figure
