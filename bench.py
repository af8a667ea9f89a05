"""
Measure this project against what you would pick instead, on your machine, in one run.

    python bench.py                    # everything; takes its time on a CPU
    python bench.py train              # or: loss memory data tokenize hellaswag generate start
    python bench.py budget             # where a step's time goes, predicted and measured
    python bench.py gpu --part 1       # on a GPU, 1 to 6; python bench.py speed, and ladder
    python bench.py train --pairs 9    # more turns, steadier medians

Ours against the plain form, which a lecture starts from, and against Hugging Face's transformers
(support/peers.py). Each side has its own process, which sleeps while the other computes: they
take turns, so that whatever else the machine does affects both. The tables show the medians of
both sides, and of the ratios of the pairs. For a GPU there are more tables: `speed`, steps of
2**19 tokens at B = 8 to 64; `ladder`, what each lesson on speed brings, switched on one after
the other, with steps of one micro-batch of 16 x 1024 as in the video; and `gpu`, in six parts of
minutes each, appended to bench_gpu.md: (1) what the card can do, (2) is the answer right, (3) the
true script, (4) forms of the step, (5) the budget, (6) 200 losses beside the plain form's.
"""

import argparse
import contextlib
import filecmp
import importlib.util
import io
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

import fineweb
import hellaswag
from support import budget, gpu, peers
from support import loss as chunks
from support.cli import Parser, UserError, one_line_errors, positive
from support.compute import (
    Compute,
    compile_or_not,
    has_bfloat16,
    peak_flops,
    pick_device,
    start_compute,
    use_large_pages,
)
from support.loss import chunked_cross_entropy
from support.peers import Run
from support.plan import settle
from support.sizes import SIZES
from support.tokenizer import N_VOCAB, get_encoding
from train_gpt2 import GPT, DataLoaderLite, Settings, get_lr, start_model, train_step

HERE = Path(__file__).parent
TEXT = HERE / "input.txt"
GPT2 = dict(n_layer=12, n_head=12, n_embd=768, max_lr=6e-4)  # 124M parameters
Make = Callable[[], Run]  # prepares a side, in the process where it is going to run

# ---------- Taking turns ----------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    seconds: float
    peak_bytes: int  # the most memory so far, above what the process had before it prepared
    value: Any  # what the Run returned


def peak_memory() -> int:
    """The most bytes this process has had: on the GPU where there is one, else in memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def serve(pipe: Any, make: Make) -> None:
    """The life of a side's process: prepare, then one turn for each word from the pipe."""
    before = peak_memory()
    try:
        run = make()
        pipe.send("ready")
        while pipe.recv():
            start = time.perf_counter()
            value = run()
            seconds = time.perf_counter() - start
            pipe.send(Turn(seconds, peak_memory() - before, value))
    except EOFError:  # nobody wants more turns
        pass
    except Exception as error:
        pipe.send(error)
        if not isinstance(error, (UserError, torch.OutOfMemoryError)):
            raise


def receive(pipe: Any) -> Any:
    """What a side's process answers. Raises what it raised."""
    try:
        answer = pipe.recv()
    except EOFError as error:
        raise UserError(
            "a measuring process was killed, most likely because memory ran out:"
            " close other programs, or measure one thing at a time"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def take_turns(num: int, *makes: Make, warm_ups: int = 1) -> list[list[Turn]]:
    """`num` turns of each side, one side after the other, after some that do not count."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for make in makes:
            pipe, theirs = context.Pipe()
            processes.append(context.Process(target=serve, args=(theirs, make)))
            processes[-1].start()
            theirs.close()  # the pipe ends with the process
            pipes.append(pipe)
            receive(pipe)
        turns = [[] for _ in makes]
        for _ in range(warm_ups + num):
            for pipe, side in zip(pipes, turns):
                pipe.send("go")
                side.append(receive(pipe))
        return [side[warm_ups:] for side in turns]
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join()


# ---------- Tables ----------------------------------------------------------------------


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def print_head(*names: str) -> None:
    print()
    print_row(*names)
    print_row(*("---" for _ in names))


def number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def compare(what: str, unit: str, ours: list[float], theirs: list[float], target: str) -> None:
    """A row: the medians of both sides, and of the ratios of the pairs."""
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    sides = (f"{number(median(side))} {unit}" for side in (ours, theirs))
    print_row(what, *sides, f"{ratio:.3g}", target)


def rates(amount: int, *sides: list[Turn]) -> list[list[float]]:
    """Each turn's amount per second."""
    return [[amount / turn.seconds for turn in side] for side in sides]


# ---------- Training steps --------------------------------------------------------------


def new_model(s: Settings) -> GPT:
    """The same weights in every process."""
    torch.manual_seed(s.seed)
    return start_model(s).to(s.device)


def batches(s: Settings, compute: Compute) -> peers.Batches:
    """The same in every process."""
    loader = DataLoaderLite(s.B, s.T, data_root=s.data_root)
    return (compute.to_device(*loader.next_batch()) for _ in count())


def learning_rates(s: Settings) -> Iterator[float]:
    return (get_lr(step, s) for step in count())


def our_step(s: Settings) -> Run:
    """A step of train_gpt2.py; returns the loss."""
    use_large_pages()
    compute = start_compute(s.device, s.dtype)
    raw_model, loader = new_model(s), DataLoaderLite(s.B, s.T, data_root=s.data_root)
    optimizer = raw_model.configure_optimizers(s.weight_decay, s.max_lr, compute.device_type)
    model = compile_or_not(raw_model, compute, s.compile, s.B, s.T)
    lrs, micro_steps = learning_rates(s), s.total_batch_size // (s.B * s.T)
    step = partial(
        train_step, model, optimizer, loader, compute, micro_steps, grad_clip=s.grad_clip
    )
    return lambda: step(learning_rate=next(lrs))[0].item()


def plain_step(s: Settings, tf32: bool = True, flash: bool = True, fused: bool = False) -> Run:
    """A step of the plain form, from the same weights on the same batches."""
    compute = start_compute(s.device, s.dtype)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    model = peers.plain_model(new_model(s), flash)
    return peers.plain_step(model, batches(s, compute), learning_rates(s), compute, s, fused)


def transformers_model(s: Settings) -> nn.Module:
    with torch.device("meta"):
        config = start_model(s).config
    return peers.transformers_model(config).to(s.device)


def transformers_step(s: Settings) -> Run:
    compute = start_compute(s.device, s.dtype)
    return peers.transformers_step(transformers_model(s), batches(s, compute), compute, s)


@dataclass(frozen=True)
class Bench:
    """Where, how often and on what to measure."""

    compute: Compute
    pairs: int
    source: str | None = None  # documents to tokenize; made from input.txt where None
    data: str | None = None  # HellaSwag's file

    def settings(self, B: int, T: int, **given: Any) -> Settings:
        """For steps of one micro-batch; the small model. `given` wins."""
        dtype = str(self.compute.dtype).removeprefix("torch.")
        run = dict(B=B, T=T, total_batch_size=B * T, data_root=str(TEXT), dtype=dtype)
        return settle(
            Settings(),
            {**SIZES["small"], **run, "device": self.compute.device, **given},
            self.compute,
        )

    def gpt2(self) -> Settings:
        """124M parameters, on as many tokens as suit the device."""
        B, T = (16, 1024) if self.compute.device_type == "cuda" else (4, 256)
        return self.settings(B, T, **GPT2)

    def small(self, **given: Any) -> Settings:
        return self.settings(SIZES["small"]["B"], SIZES["small"]["T"], **given)


def compare_steps(
    s: Settings,
    pairs: int,
    name: str,
    theirs: Make,
    speed: str | None = None,
    memory: str | None = None,
) -> None:
    """Rows for a step's speed and memory, each only if it has a target, even an empty one."""
    sides = take_turns(pairs, partial(our_step, s), theirs)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in start_model(s).parameters())
    what = f"{parameters / 1e6:.0f}M, {s.B} x {s.T}, {s.dtype}; {name}"
    if speed is not None:
        compare(f"step of {what}", "tok/s", *rates(s.B * s.T, *sides), speed)
    if memory is not None:  # these, the gradients and AdamW's two moments are 4 bytes each
        above = ([(turn.peak_bytes - 16 * parameters) / 1e6 for turn in side] for side in sides)
        compare(f"peak memory above 16 bytes per parameter, {what}", "MB", *above, memory)


def compare_gpt2(bench: Bench, speed: str | None, memory: str | None) -> None:
    """GPT-2 124M against the plain form, in bfloat16 if the hardware has it, and in float32."""
    for dtype in ("bfloat16", "float32"):
        s = replace(bench.gpt2(), dtype=dtype)
        if dtype == "bfloat16" and not has_bfloat16(bench.compute.device_type):
            print_row(f"step of 124M, {dtype}", "not measured: the hardware has none", "", "", "")
        else:
            theirs = partial(plain_step, replace(s, compile=0))
            compare_steps(s, bench.pairs, "plain form", theirs, speed, memory)


def train(bench: Bench) -> None:
    """Training steps: ours, the plain form's, and transformers'."""
    compare_gpt2(bench, "at least 1.5", "at most 0.5")
    gpt2, small = bench.gpt2(), bench.small()
    compare_steps(gpt2, bench.pairs, "transformers", partial(transformers_step, gpt2), "")
    plain = partial(plain_step, replace(small, compile=0))
    others = partial(transformers_step, small)
    compare_steps(small, 4 * bench.pairs, "plain form", plain, "at least 2")
    compare_steps(small, 4 * bench.pairs, "transformers", others, "")
    compare_losses(bench.small(dtype="float32", compile=0, max_lr=GPT2["max_lr"]), 50)


def memory(bench: Bench) -> None:
    """Only the peak memory of a step."""
    compare_gpt2(bench, None, "at most 0.5")


def our_head(s: Settings) -> Run:
    use_large_pages()
    return peers.head(s, chunked_cross_entropy)


def matmuls(s: Settings) -> Run:
    use_large_pages()
    return peers.three_matmuls(s)


def loss(bench: Bench) -> None:
    """The head and its loss alone, forward and backward: what do they cost besides matmuls?"""
    for s in (bench.small(), bench.gpt2()):
        makes = our_head, peers.plain_head, matmuls
        sides = take_turns(2 * bench.pairs, *(partial(make, s) for make in makes))
        ours, *others = ([1000 * turn.seconds for turn in side] for side in sides)
        for name, theirs, target in zip(
            ("plain form", "its three matmuls"), others, ("under 1", "at most 1.3")
        ):
            what = f"head and loss, {s.B * s.T} rows of {s.n_embd}, {s.dtype}; {name}"
            compare(what, "ms", ours, theirs, target)


def compare_losses(s: Settings, steps: int) -> None:
    """Both curves, from the same weights on the same tokens.

    Training must be stable at this learning rate: otherwise any change in the order of a sum,
    as from another number of threads, grows into a different curve.
    """
    sides = take_turns(steps, partial(our_step, s), partial(plain_step, s), warm_ups=0)
    losses = [(ours.value, plain.value) for ours, plain in zip(*sides)]
    print_head("loss, same weights and tokens", "ours", "plain form", "difference", "target")
    for step in sorted({*range(0, steps, 10), steps - 1}):
        ours, plain = losses[step]
        print_row(f"step {step}", f"{ours:.6f}", f"{plain:.6f}", f"{abs(ours - plain):.1e}", "")
    largest = max(abs(ours - plain) for ours, plain in losses)
    print_row(f"largest of {steps} steps", "", "", f"{largest:.1e}", "under 1e-3")


def ladder(s: Settings) -> Iterator[tuple[str, Make]]:
    """The lessons on speed; each rung switches on one thing more than the one before."""
    s = replace(s, dtype="float32", compile=0, vocab_size=N_VOCAB)
    yield "float32", partial(plain_step, s, tf32=False, flash=False)
    yield "TF32", partial(plain_step, s, flash=False)
    s = replace(s, dtype="bfloat16")
    yield "bfloat16", partial(plain_step, s, flash=False)
    s = replace(s, compile=1)
    yield "torch.compile", partial(plain_step, s, flash=False)
    yield "flash attention", partial(plain_step, s)
    s = replace(s, vocab_size=Settings.vocab_size)
    yield f"vocabulary of {s.vocab_size}", partial(plain_step, s)
    yield "fused AdamW", partial(plain_step, s, fused=True)
    yield "loss in chunks: train_gpt2.py", partial(our_step, s)


def print_speed(name: str, s: Settings, make: Make, turns: int) -> None:
    """A row: milliseconds per step, tokens per second, share of the peak, memory."""
    try:
        [side] = take_turns(turns, make, warm_ups=3)
    except torch.OutOfMemoryError:
        print_row(name, "out of memory", "", "", "")
        return
    seconds, tokens = median(turn.seconds for turn in side), s.total_batch_size
    with torch.device("meta"):
        flops = start_model(s).flops_per_token() * tokens / seconds
    peak = peak_flops(s.device.partition(":")[0])
    gigabytes = max(turn.peak_bytes for turn in side) / 1e9
    print_row(
        name,
        f"{seconds * 1000:.1f}",
        f"{tokens / seconds:,.0f}",
        f"{flops / peak:.1%}" if peak else "",
        f"{gigabytes:.1f} GB",
    )


COLUMNS = "ms/step", "tok/s", "MFU", "peak memory"


def speed(bench: Bench) -> None:
    """Our step of GPT-2's real size, at several B."""
    print_head("124M, steps of 2**19 tokens", *COLUMNS)
    for B in (8, 16, 32, 64):
        s = bench.settings(B, 1024, **GPT2, total_batch_size=2**19)
        print_speed(f"{B} x 1024", s, partial(our_step, s), 2 * bench.pairs)


def climb(bench: Bench, part: int | None = None) -> None:
    """The ladder, in steps of one micro-batch; of its eight rungs the first or the last four."""
    s = bench.settings(16, 1024, **GPT2)
    print_head(f"124M, steps of {s.B} x {s.T} tokens", *COLUMNS)
    rungs = {None: slice(None), 1: slice(4), 2: slice(4, None)}[part]
    for name, make in list(ladder(s))[rungs]:
        print_speed(name, s, make, 4 * bench.pairs)


# ---------- The budget ------------------------------------------------------------------


def our_matmuls(s: Settings) -> Run:
    """The matmuls of a step of one micro-batch: the least that it can cost."""
    use_large_pages()
    compute = start_compute(s.device, s.dtype)
    run = budget.step_matmuls(s, compute)
    return lambda: (run(), compute.synchronize())


def print_budget(s: Settings) -> None:
    """A step of one micro-batch: predicted from its work and from what the machine does alone,
    then measured, as a whole and by group in a profile."""
    use_large_pages()
    compute = start_compute(s.device, s.dtype)
    flops, size = budget.matmul_flops(s), compute.dtype.itemsize
    flop_speed, byte_speed = budget.matmul_speed(compute), budget.copy_speed(compute)
    moved = budget.moved_bytes(s, size)
    moved = {
        "norm and AdamW": moved.pop("norm and AdamW"),
        budget.REST: sum(moved.values()),
    }
    attention = budget.seconds_of(budget.step_attention(s, compute), compute)
    predicted = {"matmuls": flops / flop_speed, "attention": attention}
    predicted |= {name: amount / byte_speed for name, amount in moved.items()}
    why = {"matmuls": f"{flops / 1e9:,.0f} GFLOP at {flop_speed / 1e9:,.0f}/s"}
    why["attention"] = "measured alone"
    why |= {n: f"{x / 1e9:.2f} GB at {byte_speed / 1e9:.3g}/s" for n, x in moved.items()}
    step = our_step(s)
    whole = budget.seconds_of(step, compute)
    found = budget.profiled(step, compute)
    name = f"budget: {s.n_layer} layers of width {s.n_embd}, {s.B} x {s.T}, {s.dtype}"
    print_head(name, "work", "predicted", "measured")
    for group, seconds in predicted.items():
        ms = f"{number(1000 * seconds)} ms", f"{number(1000 * found[group])} ms"
        print_row(group, why[group], *ms)
    whole = f"{number(1000 * whole)} ms"
    print_row("a step", "", f"{number(1000 * sum(predicted.values()))} ms", whole)


def compare_with_matmuls(bench: Bench) -> None:
    """Our step and the plain form's, as multiples of their matmuls measured alone."""
    print_head("step; its matmuls alone", "step", "matmuls", "ratio", "target")
    for dtype, target in (("bfloat16", "at most 1.25"), ("float32", "at most 1.12")):
        if dtype == "bfloat16" and not has_bfloat16(bench.compute.device_type):
            continue
        s = replace(bench.gpt2(), dtype=dtype)
        makes = partial(our_step, s), partial(plain_step, replace(s, compile=0))
        *sides, alone = take_turns(bench.pairs, *makes, partial(our_matmuls, s), warm_ups=2)
        alone = [1000 * turn.seconds for turn in alone]
        for name, side in zip(("ours", "the plain form"), sides):
            ms = [1000 * turn.seconds for turn in side]
            compare(f"{name}, 124M, {s.B} x {s.T}, {dtype}", "ms", ms, alone, target)
            target = ""


def measure_budget(bench: Bench) -> None:
    """Where a step's time goes: the small model's and the 124M model's."""
    for s in (bench.small(), bench.gpt2()):
        print_budget(s)
    compare_with_matmuls(bench)


# ---------- On a GPU --------------------------------------------------------------------


def with_rows(s: Settings, rows: int) -> Run:
    """Our step with the loss in chunks of so many rows."""
    chunks.ROWS_GPU = rows  # of this process alone
    return our_step(s)


def on_gpu(bench: Bench, part: int, B: int = 64, T: int = 1024, **shape: Any) -> None:
    """One part of what is to be found out before a long run, each in some minutes."""
    one = bench.settings(B, T, **{**GPT2, **shape})
    step = replace(one, total_batch_size=8 * B * T)
    if part == 4:
        print_head(f"124M, steps of 8 x {B} x {T} tokens", *COLUMNS)
        for rows in (8192, 16384, 32768):
            print_speed(f"loss of {rows} rows", step, partial(with_rows, step, rows), 4)
        compiled = replace(one, compile=1 if one.compile is None else one.compile)
        make = partial(plain_step, compiled, fused=True)
        return print_speed("plain form, compiled, one micro-batch", one, make, 16)
    if part == 5:
        return print_budget(one)
    if part == 6:
        B = min(16, B)
        return compare_losses(replace(one, B=B, total_batch_size=B * T, dtype="float32"), 200)
    small = bench.small(compile=0, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--B", str(B), "--T", str(T), "--total_batch_size", str(2 * B * T)]
        flags += ["--data_root", str(TEXT), "--size", "gpt2", "--val_tokens", str(2 * B * T)]
        print_head(f"gpu, part {part}", "found")
        for row in {
            1: lambda: gpu.limits(one, bench.compute),
            2: lambda: gpu.errors(one, new_model(small), bench.compute),
            3: lambda: gpu.true_run(Path(folder, "log"), flags),
        }[part]():
            print_row(*row)


class Both(io.StringIO):
    """Keeps what is printed, and shows it."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        sys.__stdout__.flush()
        return super().write(text)


def append_part(bench: Bench, part: int, head: str) -> None:
    """Print a part, and append it to bench_gpu.md."""
    with contextlib.redirect_stdout(Both()) as printed:
        try:
            on_gpu(bench, part)
        finally:  # what was found before an error counts
            with (HERE / "bench_gpu.md").open("a", encoding="utf-8") as file:
                file.write(f"\n## Part {part}\n\n{head}\n{printed.getvalue()}")


# ---------- Data ------------------------------------------------------------------------


def hundred_batches(s: Settings) -> Run:
    loader = DataLoaderLite(s.B, s.T, data_root=s.data_root)

    def run() -> None:
        for _ in range(100):
            loader.next_batch()

    return run


def data(bench: Bench, num_tokens: int = 100_000_000) -> None:
    """The loader: its share of a step, and how soon its first batch is there."""
    tokens = np.random.default_rng(1337).integers(0, N_VOCAB, num_tokens, dtype=np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "edufineweb_train_000000.npy"), tokens)
        s = bench.small(data_root=folder)
        sides = take_turns(bench.pairs, partial(hundred_batches, s), partial(our_step, s))
        opening = []
        for _ in range(bench.pairs):
            start = time.perf_counter()
            DataLoaderLite(s.B, s.T, data_root=folder).next_batch()
            opening.append(time.perf_counter() - start)
    ms = [[1000 * turn.seconds for turn in side] for side in sides]
    compare(
        "next_batch; a step of the small model", "ms", [x / 100 for x in ms[0]], ms[1], "under 0.01"
    )
    what = f"first batch of a shard of {num_tokens:,} tokens"
    print_row(what, f"{number(median(opening))} s", "", "", "0.1 s")


def our_shards(files: dict[Path, int], out: Path, shard_size: int, kind: type) -> Run:
    """fineweb.py with one of its encoders; returns the number of documents."""
    encode, threads = kind(get_encoding()), os.cpu_count() or 1
    out.mkdir()

    def run() -> int:
        progress = fineweb.Progress({}, shard_size)
        fineweb.write_shards(files, out, progress, None, encode, threads, lambda *_: None)
        return progress.documents

    return run


def plain_shards(files: dict[Path, int], out: Path, shard_size: int) -> Run:
    out.mkdir()

    def texts() -> Iterator[str]:
        return (text for chunk in fineweb.read_chunks(files) for text in chunk.texts)

    return peers.plain_shards(texts, partial(fineweb.shard_path, out), shard_size)


def write_documents(folder: Path, megabytes: float) -> None:
    """A parquet file of documents as long as web pages: paragraphs of input.txt, shuffled."""
    import pyarrow
    import pyarrow.parquet

    rng, documents, size = random.Random(1337), [], 0
    paragraphs = TEXT.read_text(encoding="utf-8").split("\n\n")
    while size < megabytes * 1e6:
        documents.append("\n\n".join(rng.sample(paragraphs, 20)))
        size += len(documents[-1])
    table = pyarrow.table({"text": documents})
    pyarrow.parquet.write_table(table, folder / "made.parquet", row_group_size=1000)


def tokenize(bench: Bench, megabytes: float = 33) -> None:
    """fineweb.py from documents to shards, with gigatoken and without."""
    kinds = {fineweb.Tiktoken: "at least 1.5", fineweb.Gigatoken: "at least 5"}
    if not importlib.util.find_spec("gigatoken"):
        print_row("tokenize with gigatoken", "not measured: not installed", "", "", "")
        del kinds[fineweb.Gigatoken]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if bench.source is None:
            write_documents(folder, megabytes)
        files = fineweb.find_files(bench.source or name)
        shard_size = max(1, sum(files.values()) // 16)  # a handful of shards
        makes = [partial(our_shards, files, folder / kind.name, shard_size, kind) for kind in kinds]
        plain = partial(plain_shards, files, folder / "plain", shard_size)
        *sides, theirs = take_turns(bench.pairs, *makes, plain)
        documents = sides[0][0].value
        shards = [path.name for path in (folder / "plain").iterdir()]
        for (kind, target), side in zip(kinds.items(), sides):
            what = f"{documents:,} documents with {kind.name}; tiktoken in Pool(cpus // 2)"
            compare(what, "documents/s", *rates(documents, side, theirs), target)
            folders = folder / kind.name, folder / "plain"
            same, *_ = filecmp.cmpfiles(*folders, shards, shallow=False)
            verdict = "the same bytes" if len(same) == len(shards) else "different bytes"
            print_row(f"their {len(shards)} shards", "", "", verdict, "the same bytes")


# ---------- HellaSwag and samples -------------------------------------------------------


def load_hellaswag(data: str | None, num: int) -> list[dict[str, Any]]:
    """`num` examples from the file, else the validation set if it is there, else the tests'."""
    path = Path(data) if data else HERE / "hellaswag" / "hellaswag_val.jsonl"
    if not data and not path.exists():
        path = HERE / "tests" / "data" / "hellaswag_8.jsonl"
    return list(islice(cycle(hellaswag.load_examples(path)), num))


def our_scoring(s: Settings, examples: list[dict[str, Any]]) -> Run:
    """hellaswag.py; returns how many are right, by acc and by acc_norm."""
    compute, model, encoding = start_compute(s.device, s.dtype), new_model(s), get_encoding()

    def run() -> tuple[int, int]:
        with compute.autocast():
            return hellaswag.evaluate(model, examples, encoding, compute.device)

    return run


def plain_scoring(s: Settings, examples: list[dict[str, Any]]) -> Run:
    """One example per forward; returns the same."""
    compute, model = start_compute(s.device, s.dtype), peers.plain_model(new_model(s))
    render = partial(hellaswag.render, encoding=get_encoding())
    return peers.plain_scoring(model, examples, render, compute)


def score_hellaswag(bench: Bench, num: int = 32) -> None:
    """HellaSwag in batches against one example per forward."""
    s, examples = replace(bench.gpt2(), T=1024), load_hellaswag(bench.data, num)
    makes = our_scoring, plain_scoring
    sides = take_turns(bench.pairs, *(partial(make, s, examples) for make in makes))
    what = f"HellaSwag, 124M, {s.dtype}; one example per forward"
    compare(what, "examples/s", *rates(num, *sides), "at least 2.3")
    if s.dtype != "float32":
        s = replace(s, dtype="float32")
        sides = take_turns(1, *(partial(make, s, examples) for make in makes), warm_ups=0)
    ours, theirs = (str(side[0].value) for side in sides)
    verdict = "the same" if ours == theirs else "different"
    print_row(f"right of {num}, float32: acc, acc_norm", ours, theirs, verdict, "the same")


def prompt(s: Settings, rows: int) -> torch.Tensor:
    return torch.arange(32, device=s.device).repeat(rows, 1)  # (rows, 32)


def our_samples(s: Settings, rows: int, new_tokens: int) -> Run:
    """train_gpt2.py's generate."""
    compute, model, idx = start_compute(s.device, s.dtype), new_model(s), prompt(s, rows)

    def run() -> torch.Tensor:
        with compute.autocast():
            return model.generate(idx, new_tokens).cpu()

    return run


def plain_samples(s: Settings, rows: int, new_tokens: int) -> Run:
    compute, model = start_compute(s.device, s.dtype), peers.plain_model(new_model(s))
    return peers.plain_samples(model, prompt(s, rows), new_tokens, compute)


def transformers_samples(s: Settings, rows: int, new_tokens: int) -> Run:
    compute, model = start_compute(s.device, s.dtype), transformers_model(s)
    return peers.transformers_samples(model, prompt(s, rows), new_tokens, compute)


def reading(s: Settings, num_tokens: int, length: int) -> Run:
    """As many bytes as num_tokens tokens of one row each must read: the matrices and, on
    average, the keys and values of `length` tokens."""
    with torch.device("meta"):
        model = start_model(s)
    matrices = sum(p.numel() for p in model.parameters()) - model.transformer.wpe.weight.numel()
    numbers = matrices + 2 * s.n_layer * s.n_embd * length
    size = getattr(torch, s.dtype).itemsize
    memory = torch.ones(numbers * size // 4, device=s.device)

    def run() -> float:
        return sum(memory.sum().item() for _ in range(num_tokens))

    return run


def compare_samples(s: Settings, pairs: int, rows: int, new_tokens: int) -> None:
    """Sampling: ours; transformers, with its cache; a bound; the plain loop, which has no cache."""
    what = f"generate {rows} x {new_tokens} tokens, 124M, {s.dtype}; "
    bound = partial(reading, s, new_tokens, rows * (32 + new_tokens // 2))
    makes = our_samples, transformers_samples
    sides = take_turns(pairs, *(partial(make, s, rows, new_tokens) for make in makes), bound)
    compare(what + "transformers", "tok/s", *rates(rows * new_tokens, *sides[:2]), "at least 1.3")
    ms = [[1000 * turn.seconds / new_tokens for turn in side] for side in sides]
    compare(what + "reading the weights", "ms", ms[0], ms[2], "at most 1.3")
    makes = our_samples, plain_samples
    sides = take_turns(1, *(partial(make, s, rows, new_tokens) for make in makes), warm_ups=0)
    compare(what + "plain loop", "tok/s", *rates(rows * new_tokens, *sides), "at least 10")


def generate(bench: Bench) -> None:
    """Sampling with a cache."""
    for dtype in ("bfloat16", "float32"):
        if dtype == "bfloat16" and not has_bfloat16(bench.compute.device_type):
            print_row(f"generate, {dtype}", "not measured: the hardware has none", "", "", "")
            continue
        s = replace(bench.gpt2(), T=1024, dtype=dtype)
        compare_samples(s, bench.pairs, 4, 120)
        compare_samples(s, bench.pairs, 1, 200)


# ---------- Starting --------------------------------------------------------------------


def seconds_to(*argv: str) -> float:
    """From the start of python to its first line of output, or to its end."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *argv], cwd=HERE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def start(bench: Bench) -> None:
    """How long train_gpt2.py takes to say its first line."""
    with tempfile.TemporaryDirectory() as folder:
        ours = "train_gpt2.py", "--max_steps", "0", "--log_dir", folder
        pairs = [
            (seconds_to(*ours), seconds_to("-c", "import torch; print(1, flush=True)"))
            for _ in range(1 + bench.pairs)
        ]
    what = "train_gpt2.py's first line; import torch"
    compare(what, "s", *map(list, zip(*pairs[1:])), "at most 1.5")


# ---------- The command line ------------------------------------------------------------

COMMANDS = dict(
    train=train,
    loss=loss,
    memory=memory,
    data=data,
    tokenize=tokenize,
    hellaswag=score_hellaswag,
    generate=generate,
    start=start,
    budget=measure_budget,
    speed=speed,
    ladder=climb,
)
FOR_A_GPU = {"speed", "ladder", "gpu"}


def device_name(device_type: str) -> str:
    if device_type == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="Measure this project against what one would pick instead.")
    parser.add_argument("what", nargs="?", default="all", choices=[*COMMANDS, "gpu", "all"])
    parser.add_argument("--pairs", type=positive, default=5, help="turns of each side")
    parser.add_argument("--source", help="tokenize: a folder of .parquet or .jsonl files")
    parser.add_argument("--part", type=int, choices=range(1, 7), help="gpu: 1 to 6; ladder: 1 or 2")
    parser.add_argument("--data", help="hellaswag: a hellaswag_val.jsonl")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """The command line; `argv` without the program's name. UserError -> one line, exit code 2."""
    with one_line_errors():
        args = parse_args(argv)
        compute = start_compute(pick_device(), None)
        head = (
            f"{device_name(compute.device_type)}, {compute.dtype}, {torch.get_num_threads()}"
            f" threads, torch {torch.__version__}, medians of {args.pairs} pairs"
        )
        print(head, flush=True)
        bench = Bench(compute, args.pairs, args.source, args.data)
        if args.what in FOR_A_GPU:
            if compute.device_type != "cuda":
                raise UserError(f"{args.what} needs an NVIDIA GPU: try python bench.py train")
            if args.what == "ladder":
                return climb(bench, args.part and min(args.part, 2))
            if args.what == "gpu":
                return append_part(bench, args.part or 1, f"{time.strftime('%Y-%m-%d')}, {head}")
            return COMMANDS[args.what](bench)
        if args.what == "budget":
            return measure_budget(bench)
        everything = COMMANDS.keys() - FOR_A_GPU - {"memory", "budget"}  # which have other tables
        for name in COMMANDS:
            if name in (everything if args.what == "all" else [args.what]):
                print_head(f"{name}: ours; theirs", "ours", "theirs", "ours / theirs", "target")
                COMMANDS[name](bench)


if __name__ == "__main__":
    main()
