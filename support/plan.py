"""From the flags that were given to a run's settings, and to its first lines of output."""

import math
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from support.cli import FIXED, TYPED, UserError
from support.compute import Compute
from support.loss import chunk_rows
from support.sizes import RECIPES, SIZES, TIMES_THE_RATE

Settings = Any  # train_gpt2.Settings, which this module does not import
Config = Any  # train_gpt2.GPTConfig
Checkpoint = dict[str, Any]  # from agreed_checkpoint

WARMUP_SHARE = 0.0375  # of all steps: GPT-3's 375e6 tokens of the full run's 10e9
SMALL_WARMUP_SHARE = 0.05


def default_size(data_root: str, compute: Compute) -> tuple[str, str]:
    """The size that is trained where none is named, and why."""
    if compute.device_type != "cuda":
        return "small", "no NVIDIA GPU here"
    if not Path(data_root).is_dir():
        return "small", "no shards here"
    return "gpt2", "an NVIDIA GPU and shards"


def saved_settings(defaults: Settings, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """The settings of the run that goes on, as far as they still hold."""
    before = {
        "shuffle": 0,
        "optimizer": "adamw",
        "recipe": "paper",
    }  # what runs had when these were not yet settings
    saved = {} if checkpoint is None else {**before, **checkpoint["settings"]}
    goes_on = (f.name for f in fields(defaults) if f.metadata["resume"] != TYPED)
    return {name: saved[name] for name in goes_on if name in saved}


def refuse_another_run(defaults: Settings, given: dict[str, Any], saved: dict[str, Any]) -> None:
    """Raises UserError where a flag would make another run of the one that goes on."""
    for f in fields(defaults):
        old, new = saved.get(f.name), given.get(f.name)
        if f.metadata["resume"] == FIXED and None not in (old, new) and old != new:
            folder = given.get("log_dir", defaults.log_dir)
            raise UserError(
                f"--{f.name} {new}: the run in {folder} has {old}; leave it out to go on with that"
                " run, or start another: without --resume, with a --log_dir of its own"
            )


def shape(trained: Config) -> dict[str, int]:
    """The settings that are a model's, of the one that init_from names."""
    return {name: getattr(trained, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd")}


def refuse_another_shape(given: dict[str, Any], trained: Config) -> None:
    """Raises UserError where a flag asks for what the model that init_from names does not have."""
    for name, value in shape(trained).items():
        if given.get(name, value) != value:
            raise UserError(
                f"--{name} {given[name]}: {given['init_from']} has {value}; leave it out, or"
                " --init_from, which makes a new model"
            )
    if given.get("T", 0) > trained.block_size:
        raise UserError(
            f"--T {given['T']} is over the block_size of {given['init_from']}:"
            f" try --T {trained.block_size}"
        )


def nearest_size(trained: Config) -> str:
    """The size with as many layers of the same width, else gpt2."""
    same = (
        name
        for name, size in SIZES.items()
        if (size["n_layer"], size["n_embd"]) == (trained.n_layer, trained.n_embd)
    )
    return next(same, "gpt2")


def finetuning(trained: Config, size: str) -> dict[str, Any]:
    """To go on with a model on a text of one's own: a tenth of the rate that made it, which
    changes it and does not wreck it, and few steps, as the text is short."""
    return {
        **shape(trained),
        "T": trained.block_size,
        "total_batch_size": min(SIZES[size]["total_batch_size"], 8192),
        "max_lr": SIZES[size]["max_lr"] / 10,
        "max_steps": 200,
        "eval_every": 20,
        "sample_every": 100,
        "hellaswag_every": 0,
    }


def settle(
    defaults: Settings,
    given: dict[str, Any],
    compute: Compute,
    trained: Config | None = None,
    checkpoint: Checkpoint | None = None,
) -> Settings:
    """The given flags, else the settings of the run that goes on, else the recipe's, else what
    suits the trained model that init_from names, else what the size sets, else what suits the
    device, else the defaults.

    Raises UserError if they do not go together.
    """
    saved = saved_settings(defaults, checkpoint)
    refuse_another_run(defaults, given, saved)
    if trained:
        refuse_another_shape(given, trained)
    if trained and not checkpoint and "size" in given:
        raise UserError(
            f"--size {given['size']}: {given['init_from']} has a shape of its own; leave it out, or"
            " --init_from, which makes a new model"
        )
    if "max_lr" in given:
        saved.pop("min_lr", None)  # a tenth of the new one, or a lower max_lr would make it rise
    known = {**saved, **given}
    has_shards = any(Path(defaults.data_root).glob("*train*"))
    data_root = known.get("data_root", defaults.data_root if has_shards else "input.txt")
    size = known.get("size") or (
        nearest_size(trained) if trained else default_size(data_root, compute)[0]
    )
    chosen = {} if compute.device_type == "cuda" else {"B": SIZES["small"]["B"]}
    chosen |= SIZES[size] | (finetuning(trained, size) if trained else {})
    recipe = known.get("recipe", defaults.recipe)
    chosen |= RECIPES[recipe] | {"max_lr": TIMES_THE_RATE[recipe] * chosen["max_lr"]}
    s = replace(defaults, **{**chosen, **known, "data_root": data_root, "size": size})
    if s.n_embd % s.n_head != 0:
        raise UserError(f"--n_embd {s.n_embd} is not divisible by --n_head {s.n_head}")
    if not trained:
        refuse_what_no_memory_holds(s)
    max_steps = int(10e9) // s.total_batch_size if s.max_steps is None else s.max_steps
    if checkpoint and max_steps < checkpoint["step"]:
        raise UserError(
            f"--max_steps {max_steps}: the checkpoint is of step {checkpoint['step']} already"
        )
    share = SMALL_WARMUP_SHARE if size == "small" else WARMUP_SHARE
    return replace(
        s,
        B=fitting_B(s, "B" in given, compute.world_size),
        max_steps=max_steps,
        warmup_steps=round(share * max_steps) if s.warmup_steps is None else s.warmup_steps,
        min_lr=s.max_lr / 10 if s.min_lr is None else s.min_lr,
    )


def changes(s: Settings, checkpoint: Checkpoint) -> dict[str, list]:
    """Which settings of the run that goes on are others now: name -> [before, now]."""
    before = saved_settings(s, checkpoint).items()
    return {name: [old, getattr(s, name)] for name, old in before if old != getattr(s, name)}


def fitting_B(s: Settings, is_given: bool, world_size: int) -> int:
    """The largest B, at most s.B, with which whole micro-batches fill the step.

    Raises UserError if there is none, or if another B was given.
    """
    row = s.T * world_size
    rows, rest = divmod(s.total_batch_size, row)  # of each process
    B = 0 if rest else largest_divisor(rows, s.B)
    if B == s.B or (B > 0 and not is_given):
        return B
    hint = f"--B {B}" if B else f"--total_batch_size {max(1, rows) * row}"
    raise UserError(
        f"--total_batch_size {s.total_batch_size} is not a multiple of"
        f" B x T x processes = {s.B} x {s.T} x {world_size}: try {hint}"
    )


def largest_divisor(n: int, limit: int) -> int:
    """Of those of n that are at most `limit`."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return max(d for low in small for d in (low, n // low) if d <= limit)


def parameters(s: Settings) -> int:
    """How many numbers the model learns."""
    C = s.n_embd
    return 12 * s.n_layer * C**2 + s.vocab_size * C + s.T * C + (13 * s.n_layer + 2) * C


def refuse_what_no_memory_holds(s: Settings) -> None:
    """Raises UserError where the weights alone, in fp32, are larger than this machine's memory."""
    if not hasattr(os, "sysconf"):  # Windows
        return
    need, memory = 4 * parameters(s), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > memory:
        raise UserError(
            f"{s.n_layer} layers of width {s.n_embd}, a vocabulary of {s.vocab_size} and T = {s.T}"
            f" make {need / 1e9:,.0f} GB of weights, this machine has {memory / 1e9:,.0f}:"
            " try a smaller model (--help lists sizes)"
        )


def plan(s: Settings, world_size: int) -> str:
    """What a run is going to do, in three lines."""
    micro_steps = s.total_batch_size // (s.B * s.T * world_size)
    return (
        f"{s.max_steps:,} steps of {s.total_batch_size:,} tokens:"
        f" {s.max_steps * s.total_batch_size:,} tokens in all\n"
        f"a step: {micro_steps} micro-step(s) of {s.B} x {s.T} tokens on {world_size} process(es)\n"
        f"learning rate: {s.warmup_steps:,} steps up to {s.max_lr:g}, then down to {s.min_lr:g}"
    )


def step_memory(s: Settings, dtype: torch.dtype) -> dict[str, int]:
    """The bytes of a compiled step on a GPU at its peak, in the loss, by what they are for.

    Counted on paper: what CUDA itself needs, and gaps between tensors, come on top.
    """
    C, tokens, size = s.n_embd, s.B * s.T, dtype.itemsize
    matrices = 12 * s.n_layer * C**2 + s.vocab_size * C
    # A layer keeps the inputs of its two LayerNorms in fp32; in dtype those of its matmuls and of
    # GELU: 1 C for q, k and v, which are 3 C, 1 C for c_proj, 1 C for c_fc, and 4 C + 4 C around
    # GELU. Before the layers stands the embedding, after them the gradient from the loss.
    kept = tokens * C * (s.n_layer * (2 * 4 + 14 * size) + 4 + size)
    logits = min(tokens, chunk_rows("cuda", dtype)) * s.vocab_size * size
    return {
        "weights, gradients, AdamW's two moments": 4 * 4 * parameters(s),
        f"matrices in {str(dtype).removeprefix('torch.')}": size * matrices if size < 4 else 0,
        "kept for the backward pass": kept,
        "a chunk's logits and their gradient": 2 * logits,
        "the head's gradient": 4 * s.vocab_size * C,
    }


def introduce(
    s: Settings, given: dict[str, Any], compute: Compute, checkpoint: Checkpoint | None = None
) -> None:
    """The first lines: what is trained and why, where, and what is going to happen."""
    reason = default_size(s.data_root, compute)[1]
    why = "" if "size" in given or checkpoint else f" ({reason}; --size names another)"
    model = f"size {s.size}{why}" if s.init_from == "scratch" else f"from {s.init_from}"
    model += f": {s.n_layer} layers of width {s.n_embd}"
    where = f"{compute.device}, {compute.dtype}, torch {torch.__version__}"
    compute.print(f"{model} on {s.data_root}; {where}\n{plan(s, compute.world_size)}")
    if compute.device_type == "cuda":
        need = sum(step_memory(s, compute.dtype).values())
        compute.print(f"memory of a compiled step, on paper: {need / 1e9:.1f} GB on each GPU")
    if checkpoint:
        compute.print(goes_on(s, checkpoint["step"]))
        for name, (old, new) in changes(s, checkpoint).items():
            was = "the default" if old is None else old
            compute.print(f"{name}: {new} from here on, it was {was}")


def goes_on(s: Settings, step: int) -> str:
    if step == s.max_steps:
        return f"the run in {s.log_dir} has done its {step:,} steps; a larger --max_steps adds more"
    return f"the run in {s.log_dir} goes on at step {step:,}"
