"""
Train GPT-2 (124M) in one file, to be read from top to bottom.

    python train_gpt2.py                                     # a laptop: minutes, on input.txt
    python train_gpt2.py --B 16                              # one GPU and shards of fineweb.py
    torchrun --standalone --nproc_per_node=8 train_gpt2.py   # eight: 10B tokens overnight

The way of the data: bytes -> tokens (support/tokenizer.py, fineweb.py) -> batches (DataLoaderLite)
-> logits and loss (GPT) -> one update (train_step) -> lines of the log (train).
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import hellaswag
from support.cli import (
    MIN_0,
    MIN_1,
    POSITIVE,
    SWITCH,
    UserError,
    flag,
    one_line_errors,
    parse_flags,
)
from support.compute import has_bfloat16, is_out_of_memory, speed
from support.hugging_face import read_pretrained
from support.loss import TiedEmbedding, chunked_cross_entropy
from support.runs import (
    Log,
    checkpoint_of,
    newest_checkpoint,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from support.shards import load_split
from support.tokenizer import N_VOCAB, get_encoding

# ---------- The model -------------------------------------------------------------------


@dataclass
class GPTConfig:
    """The shape of the model; the defaults are GPT-2's smallest, 124M parameters."""

    block_size: int = 1024  # the longest context, in tokens
    vocab_size: int = 50257  # 50,000 merges + 256 bytes + <|endoftext|>
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768


Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attend_causally(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each token reads from itself and from those before it; all are (B, nh, T, hs).

    = softmax(q @ k.mT / sqrt(hs), -inf where the key comes later than the query) @ v
    """
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class CausalSelfAttention(nn.Module):
    """Where tokens communicate."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        assert config.n_embd % config.n_head == 0
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key, value at once
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.c_proj.adds_to_residual = True

    def forward(self, x: torch.Tensor, attend: Attend = attend_causally) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
        y = attend(q, k, v).transpose(1, 2).reshape(B, T, C)  # the heads side by side again
        return self.c_proj(y)


class MLP(nn.Module):
    """Where each token thinks on its own."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.c_proj.adds_to_residual = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Communicate, then compute; both add to the residual stream."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor, attend: Attend = attend_causally) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x), attend)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """GPT-2: a decoder-only Transformer (Radford et al. 2019), named as Hugging Face does.

    The head shares its weight with the token embedding. How the weights start:

    | what                                        | normal, mean 0, std                   |
    | ------------------------------------------- | ------------------------------------- |
    | matrices, and the token embedding           | 0.02                                  |
    | matrices whose output joins the residual    | 0.02 / sqrt(2 n_layer): 2 a layer add |
    | position embedding                          | 0.01, as in OpenAI's code             |
    | biases; LayerNorm                           | zero; one and zero                    |
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(config.vocab_size, config.n_embd),
                wpe=nn.Embedding(config.block_size, config.n_embd),
                h=nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                ln_f=nn.LayerNorm(config.n_embd),
            )
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight  # one tensor, two gradients added up
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            std = 0.02
            if hasattr(module, "adds_to_residual"):
                std /= math.sqrt(2 * self.config.n_layer)
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.01 if module is self.transformer.wpe else 0.02)

    def hidden(
        self,
        idx: torch.Tensor,
        pos: torch.Tensor | None = None,
        attends: list[Attend] | None = None,
    ) -> torch.Tensor:
        """Token ids (B, T) -> what `blocks` makes of their embeddings, (B, T, n_embd)."""
        return self.blocks(self.transformer.wte(idx), pos, attends)

    def blocks(
        self,
        x: torch.Tensor,
        pos: torch.Tensor | None = None,
        attends: list[Attend] | None = None,
    ) -> torch.Tensor:
        """Embedded tokens (B, T, n_embd) -> the residual stream after the last LayerNorm.

        pos (T) or (B, T), the tokens' positions, counts from 0 if not given; attends, one
        function of (q, k, v) per layer, says who reads from whom: causal if not given.

        Raises ValueError when T is over block_size.
        """
        T, limit, n_layer = x.size(1), self.config.block_size, self.config.n_layer
        if T > limit:
            raise ValueError(f"a sequence of {T} tokens does not fit block_size {limit}")
        x = x + self.transformer.wpe(torch.arange(T, device=x.device) if pos is None else pos)
        for block, attend in zip(self.transformer.h, attends or [attend_causally] * n_layer):
            x = block(x, attend)
        return self.transformer.ln_f(x)

    def forward(
        self, idx: torch.Tensor, targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Token ids (B, T) -> logits (B, T, vocab_size) and None.

        Given targets (B, T): None and the mean loss, from a chunk of the logits at a time.
        """
        if targets is None:
            return self.lm_head(self.hidden(idx)), None
        x, weight = TiedEmbedding.apply(idx, self.lm_head.weight)  # one gradient for both uses
        return None, chunked_cross_entropy(self.blocks(x).flatten(0, 1), weight, targets.flatten())

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> "GPT":
        """OpenAI's weights by name (gpt2, ...), or those of a local Hugging Face folder.

        Raises UserError where there are none, or they are not GPT-2's.
        """
        c, weights = read_pretrained(name_or_path)
        model = cls(GPTConfig(c.n_positions, c.vocab_size, c.n_layer, c.n_head, c.n_embd))
        model._copy_from(weights)
        return model

    @torch.no_grad()
    def _copy_from(self, theirs: dict[str, torch.Tensor]) -> None:
        """Copy Hugging Face's weights; their Conv1D keeps its matrices transposed."""
        conv1d = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        for name, own in self.state_dict().items():
            weight = theirs[name].t() if name.endswith(conv1d) else theirs[name]
            if weight.shape != own.shape:
                raise UserError(f"{name} is {tuple(weight.shape)}, expected {tuple(own.shape)}")
            own.copy_(weight)

    def configure_optimizers(
        self, weight_decay: float, learning_rate: float, device_type: str
    ) -> torch.optim.AdamW:
        """AdamW as in GPT-3 (Brown et al. 2020, appendix B): decay for matrices, not vectors.

        Matrices and embeddings take part in sums of many products, which decay keeps from
        leaning on a few large weights; biases and LayerNorms do not.
        """
        parameters = list(self.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            groups,
            lr=learning_rate,
            betas=(0.9, 0.95),
            eps=1e-8,
            fused=device_type in ("cuda", "cpu"),  # one kernel over all parameters
        )

    @torch.no_grad()
    def generate(
        self,
        idx: torch.Tensor,
        max_new_tokens: int,
        top_k: int = 50,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Continue each row of idx (B, T) by max_new_tokens -> (B, T + max_new_tokens).

        Each token is drawn from the top_k likeliest ones; the context is the last
        block_size tokens. `generator` lives on idx's device.
        """
        for _ in range(max_new_tokens):
            context = idx[:, -self.config.block_size :]
            logits = self.lm_head(self.hidden(context)[:, -1, :]) / temperature
            logits = logits[:, :N_VOCAB]  # (B, vocab); ids past N_VOCAB only pad the matrix
            top, ids = torch.topk(logits, min(top_k, logits.size(-1)))  # (B, top_k)
            pick = torch.multinomial(F.softmax(top, dim=-1), 1, generator=generator)  # (B, 1)
            idx = torch.cat((idx, ids.gather(-1, pick)), dim=1)
        return idx


# ---------- The data --------------------------------------------------------------------


class DataLoaderLite:
    """Batches from one endless stream of tokens: the shards one after another, again and again.

    The position is global, in tokens, and the same on all ranks; a rank only picks its
    slice of the rows that come next. So the rows of a step are the same for every B and
    every number of processes, and nothing is dropped where a shard ends.
    """

    def __init__(
        self,
        B: int,
        T: int,
        process_rank: int = 0,
        num_processes: int = 1,
        split: str = "train",
        data_root: str = "edu_fineweb10B",
        vocab_size: int = N_VOCAB,
    ):
        self.B, self.T, self.vocab_size = B, T, vocab_size
        self.process_rank, self.num_processes = process_rank, num_processes
        self.shards = load_split(data_root, split)
        self.ends = np.cumsum([len(shard) for shard in self.shards])  # in the stream
        self.num_tokens = int(self.ends[-1])
        self.reset()

    def reset(self) -> None:
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's next x and y, both (B, T), int64, on the CPU."""
        start = self.position + self.process_rank * self.B * self.T
        self.position += self.num_processes * self.B * self.T
        return self.rows(start, self.B)

    def rows(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """x and y, both (count, T): one stretch of tokens, seen twice, one token apart."""
        stretch = self.read(start, count * self.T + 1)  # one more, for the last target
        if stretch.max() >= self.vocab_size:
            raise UserError(
                f"token id {stretch.max()} near position {start} of the data, expected ids"
                f" under {self.vocab_size}: write the shards anew with python fineweb.py"
            )
        tokens = torch.from_numpy(stretch.astype(np.int64))
        return tokens[:-1].view(count, self.T), tokens[1:].view(count, self.T)

    def read(self, start: int, count: int) -> np.ndarray:
        """`count` tokens of the stream from position `start`, across ends of shards and epochs."""
        parts = []
        while count > 0:
            start %= self.num_tokens
            i = int(np.searchsorted(self.ends, start, side="right"))
            offset = start - int(self.ends[i]) + len(self.shards[i])
            parts.append(self.shards[i][offset : offset + count])
            start += len(parts[-1])
            count -= len(parts[-1])
        return np.concatenate(parts)


# ---------- The settings ----------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """A run. Each field is a flag; the defaults are the 10B-token run on eight GPUs."""

    B: int = flag(64, "micro-batch: rows per forward pass; halve it when out of memory", MIN_1)
    T: int = flag(1024, "context: tokens per row, and block_size of a new model", MIN_1)
    total_batch_size: int = flag(2**19, "tokens per update, over all processes", MIN_1)
    max_steps: int | None = flag(None, "updates (default: what 10e9 tokens make)", MIN_0, int)
    warmup_steps: int | None = flag(None, "updates of warm-up (default: 375e6 tokens)", MIN_0, int)
    max_lr: float = flag(6e-4, "learning rate at its highest", POSITIVE)
    min_lr: float | None = flag(None, "rate at the end (default: max_lr / 10)", MIN_0, float)
    weight_decay: float = flag(0.1, "AdamW's decay of matrices and embeddings", MIN_0)
    grad_clip: float = flag(1.0, "largest norm of the gradient", POSITIVE)
    n_layer: int = flag(12, "blocks of a new model", MIN_1)
    n_head: int = flag(12, "attention heads per block", MIN_1)
    n_embd: int = flag(768, "width of the residual stream", MIN_1)
    vocab_size: int = flag(50304, "rows of the embedding: 50257 tokens, padded to 393 x 128", MIN_1)
    data_root: str = flag("edu_fineweb10B", "a folder of shards, or a text file")
    log_dir: str = flag("log", "where log.txt, settings.json and checkpoints go")
    eval_every: int = flag(250, "steps between validations; 0: never", MIN_0)
    val_tokens: int = flag(10_485_760, "tokens of a validation, at most what there is", MIN_1)
    sample_every: int = flag(250, "steps between samples; 0: never", MIN_0)
    hellaswag_every: int = flag(250, "steps between HellaSwag evaluations; 0: never", MIN_0)
    save_every: int = flag(5000, "steps between checkpoints, besides the end; 0: never", MIN_0)
    init_from: str = flag("scratch", "scratch, gpt2 to gpt2-xl, a folder or a checkpoint.pt")
    resume: int = flag(0, "1: go on from the newest checkpoint in log_dir", SWITCH)
    compile: int | None = flag(None, "1: torch.compile (default: 1 where the GPU can)", SWITCH, int)
    dtype: str | None = flag(None, "float32 or bfloat16 (default: bfloat16 in hardware)")
    device: str | None = flag(None, "cpu, cuda, cuda:N or mps (default: the best there is)")
    seed: int = flag(1337, "of the weights; samples have 42 + rank", MIN_0)


# What replaces the defaults where there is no GPU, or no shards: minutes on a laptop.
SMALL = dict(
    B=4,
    T=64,
    total_batch_size=256,
    max_steps=1200,
    warmup_steps=60,
    max_lr=2e-3,
    n_layer=4,
    n_head=4,
    n_embd=128,
    eval_every=400,
    sample_every=400,
    hellaswag_every=0,
)
SMALL_HELP = f"Without a GPU, or without shards, these replace the defaults: {SMALL}"


def settle(given: dict[str, Any], compute: "Compute") -> Settings:
    """The typed flags over the defaults, the rest of which follows from them.

    Where there is no GPU, or no shards, the small set is between them. Raises UserError
    where they do not go together.
    """
    has_shards = any(Path(Settings.data_root).glob("*train*"))
    data_root = given.get("data_root", Settings.data_root if has_shards else "input.txt")
    is_small = compute.device_type != "cuda" or not Path(data_root).is_dir()
    small = dict(SMALL) if is_small else {}
    if given.get("init_from", "scratch") != "scratch":
        small.pop("max_lr", None)  # a rate for small new models would wreck a trained one
    s = Settings(**{**small, **given, "data_root": data_root})
    tokens = s.total_batch_size
    B = largest_fitting_B(s, compute.world_size)
    if B == 0 or (B != s.B and "B" in given):
        raise UserError(unfit_batch(s, B, compute))
    if s.n_embd % s.n_head != 0:
        raise UserError(f"--n_embd {s.n_embd} does not divide by --n_head {s.n_head}")
    return replace(
        s,
        B=B,
        max_steps=int(10e9) // tokens if s.max_steps is None else s.max_steps,
        warmup_steps=int(375e6) // tokens if s.warmup_steps is None else s.warmup_steps,
        min_lr=s.max_lr / 10 if s.min_lr is None else s.min_lr,
    )


def largest_fitting_B(s: Settings, world_size: int) -> int:
    """The largest B, at most s.B, with which whole micro-batches fill the step; 0: none."""
    fits = (B for B in range(s.B, 0, -1) if s.total_batch_size % (B * s.T * world_size) == 0)
    return next(fits, 0)


def unfit_batch(s: Settings, B: int, compute: "Compute") -> str:
    found = (
        f"--total_batch_size {s.total_batch_size} is no multiple of"
        f" B x T x processes = {s.B} x {s.T} x {compute.world_size}"
    )
    row = s.T * compute.world_size
    hint = f"--B {B}" if B else f"--total_batch_size {max(1, s.total_batch_size // row) * row}"
    return f"{found}: try {hint}"


def get_lr(step: int, s: Settings) -> float:
    """Learning rate of update `step`: linear to max_lr, then a cosine to min_lr at max_steps."""
    if step < s.warmup_steps:
        return s.max_lr * (step + 1) / s.warmup_steps
    progress = (step - s.warmup_steps) / max(1, s.max_steps - s.warmup_steps)  # 0 to 1
    return s.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (s.max_lr - s.min_lr)


def plan(s: Settings, world_size: int) -> str:
    """What a run is going to do, in three lines."""
    micro_steps = s.total_batch_size // (s.B * s.T * world_size)
    return (
        f"{s.max_steps:,} steps of {s.total_batch_size:,} tokens:"
        f" {s.max_steps * s.total_batch_size:,} tokens in all\n"
        f"a step: {micro_steps} micro-step(s) of {s.B} x {s.T} tokens on {world_size} process(es)\n"
        f"learning rate: {s.warmup_steps:,} steps up to {s.max_lr:g}, then down to {s.min_lr:g}"
    )


# ---------- The device and the processes ------------------------------------------------


def pick_device() -> str:
    """The best there is: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


@dataclass(frozen=True)
class Compute:
    """Where this process computes, and how; decided once, by start_compute."""

    device: str  # cpu, cuda, cuda:3, mps
    dtype: torch.dtype = torch.float32  # of the matmuls; parameters are always float32
    rank: int = 0
    world_size: int = 1

    @property
    def device_type(self) -> str:
        return self.device.split(":")[0]

    def autocast(self) -> Any:
        """For forward and loss: matmuls in bfloat16; LayerNorm, softmax and loss stay fp32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device_type, self.dtype)

    def synchronize(self) -> None:
        """Wait for the device, before the clock is read."""
        if self.device_type == "cuda":
            torch.cuda.synchronize()
        elif self.device_type == "mps":
            torch.mps.synchronize()

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        if self.device_type == "cuda":  # pinned memory is copied while the GPU computes
            return [t.pin_memory().to(self.device, non_blocking=True) for t in tensors]
        return [t.to(self.device) for t in tensors]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def print(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)


def start_compute(device: str | None, dtype: str | None) -> Compute:
    """Decide where to compute, and join the other processes where torchrun started some.

    Raises UserError for a device that is not there.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = device or pick_device()
    if device == "cuda" and world_size > 1:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise UserError(f"--device {device}: expected cpu, cuda, cuda:N or mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: there is none here, try --device cpu")
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        if int(index or 0) >= gpus:
            raise UserError(
                f"--device {device}: found {gpus} GPU(s); try --device cpu, or torchrun with"
                f" --nproc_per_node={max(1, gpus)}"
            )
        torch.cuda.set_device(int(index or 0))
    torch.set_float32_matmul_precision("high")  # TF32 where there are tensor cores
    if dtype not in (None, "float32", "bfloat16"):
        raise UserError(f"--dtype {dtype}: expected float32 or bfloat16")
    dtype = dtype or ("bfloat16" if has_bfloat16(kind) else "float32")
    if world_size > 1:
        if kind == "cuda":
            dist.init_process_group("nccl", device_id=torch.device(device))
        else:
            dist.init_process_group("gloo")
    return Compute(device, getattr(torch, dtype), rank, world_size)


def compile_or_not(model: GPT, s: Settings, compute: Compute) -> nn.Module:
    """The model compiled for (B, T) training steps; as it is where that fails, with one line."""
    able = compute.device_type == "cuda" and torch.cuda.get_device_capability() >= (7, 0)
    if not (able if s.compile is None else s.compile):
        return model
    compiled = torch.compile(model)
    x, y = torch.zeros(2, s.B, s.T, dtype=torch.long, device=compute.device)
    try:  # the compiler starts at the first call, not above
        with compute.autocast():
            compiled(x, y)[1].backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever compiler or driver lacks: training goes on without
        reason = str(error).strip().splitlines()[0]
        compute.print(f"torch.compile failed, going on without: {reason}")
        return model
    finally:
        model.zero_grad(set_to_none=True)
    return compiled


def distribute(model: nn.Module, compute: Compute) -> nn.Module:
    """The model in DistributedDataParallel, which averages the gradients of all processes."""
    if compute.world_size == 1:
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


# ---------- Evaluation ------------------------------------------------------------------


@torch.no_grad()
def validation_loss(model: GPT, loader: DataLoaderLite, max_tokens: int, compute: Compute) -> float:
    """Mean loss of the first max_tokens targets of the loader's split, over all processes.

    The rows are the same for every B and number of processes; each batch counts by its rows.
    """
    tokens = min(max_tokens, loader.num_tokens - 1)
    rows = tokens // loader.T
    if rows == 0:
        raise UserError(
            f"{tokens} tokens to validate on, expected T = {loader.T} or more:"
            " try a smaller --T, a larger --val_tokens, or --eval_every 0"
        )
    total = torch.zeros((), device=compute.device)
    for first in range(loader.process_rank * loader.B, rows, loader.num_processes * loader.B):
        count = min(loader.B, rows - first)
        x, y = compute.to_device(*loader.rows(first * loader.T, count))
        with compute.autocast():
            total += model(x, y)[1] * (count / rows)
    return compute.sum(total).item()


def print_samples(model: GPT, seed: int, compute: Compute) -> None:
    """Four samples of 32 tokens, by rank 0, from a generator that is not training's."""
    if compute.rank != 0:
        return
    try:
        encoding = get_encoding()
    except UserError as error:
        print(f"samples skipped: {error}")
        return
    generator = torch.Generator(device=compute.device).manual_seed(seed)
    start = torch.tensor(encoding.encode("Hello, I'm a language model,"), device=compute.device)
    with compute.autocast():
        rows = model.generate(start.repeat(4, 1), 32 - len(start), generator=generator)
    for row in rows.tolist():
        print(f"> {encoding.decode(row)}", flush=True)


@torch.no_grad()
def hellaswag_accuracy(model: GPT, examples: list[dict], compute: Compute) -> float:
    """Share of right answers (acc_norm) over all processes; printed."""
    with compute.autocast():
        _, right = hellaswag.evaluate(model, examples, get_encoding(), compute.device)
    right, count = compute.sum(torch.tensor([right, len(examples)], device=compute.device)).tolist()
    compute.print(f"HellaSwag accuracy: {right}/{count}={right / count:.4f}")
    return right / count


# ---------- Training --------------------------------------------------------------------


def load_model(name_or_path: str) -> GPT:
    """A model of OpenAI's by name, of a Hugging Face folder, or of a checkpoint.pt."""
    if not name_or_path.endswith(".pt"):
        return GPT.from_pretrained(name_or_path)
    checkpoint = read_checkpoint(Path(name_or_path))
    model = GPT(GPTConfig(**checkpoint["config"]))
    model.load_state_dict(checkpoint["model"])
    return model


def start_model(s: Settings) -> GPT:
    """A new model of the settings' shape, or the one that init_from names."""
    if s.init_from == "scratch":
        return GPT(GPTConfig(s.T, s.vocab_size, s.n_layer, s.n_head, s.n_embd))
    model = load_model(s.init_from)
    if s.T > model.config.block_size:
        raise UserError(
            f"--T {s.T} is over the block_size of {s.init_from}: try --T {model.config.block_size}"
        )
    return model


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoaderLite,
    compute: Compute,
    micro_steps: int,
    learning_rate: float,
    grad_clip: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update from the gradients of micro_steps batches.

    Returns the mean loss over all processes and the norm of the gradient before clipping,
    both still on the device: asking for their values would wait for it.
    """
    total = torch.zeros((), device=compute.device)
    for micro_step in range(micro_steps):
        x, y = compute.to_device(*loader.next_batch())
        is_last = micro_step == micro_steps - 1
        with nullcontext() if is_last or compute.world_size == 1 else model.no_sync():
            with compute.autocast():
                _, loss = model(x, y)
            loss = loss / micro_steps  # the mean of the means
            total += loss.detach()
            loss.backward()  # adds to the gradients that are there
    total = compute.sum(total) / compute.world_size
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad()
    return total, norm


def due(step: int, every: int, is_last: bool) -> bool:
    """Whether something that happens every so many steps, and at the end, happens now."""
    return every > 0 and (step % every == 0 or is_last)


def train(s: Settings, compute: Compute) -> None:
    """The run: max_steps updates; what is evaluated last is the model that is saved last."""
    torch.manual_seed(s.seed)
    raw_model = start_model(s).to(compute.device)
    optimizer = raw_model.configure_optimizers(s.weight_decay, s.max_lr, compute.device_type)
    ranks = compute.rank, compute.world_size
    vocab_size = min(N_VOCAB, raw_model.config.vocab_size)
    loader = DataLoaderLite(s.B, s.T, *ranks, "train", s.data_root, vocab_size)
    if s.eval_every > 0:
        val_loader = DataLoaderLite(s.B, s.T, *ranks, "val", s.data_root, vocab_size)
    checkpoint = newest_checkpoint(s.log_dir) if s.resume else None
    first_step = restore(checkpoint, raw_model, optimizer, loader) if checkpoint else 0
    val_loss = checkpoint["val_loss"] if checkpoint else None
    del checkpoint
    examples = hellaswag.share(*ranks, compute.barrier) if s.hellaswag_every > 0 else []
    run = {"settings": asdict(s), "compute": {**asdict(compute), "dtype": str(compute.dtype)}}
    compute.barrier()  # all have read what they start from: Log may move it away
    log = Log(s.log_dir, run, compute.rank, first_step)
    model = distribute(compile_or_not(raw_model, s, compute), compute)
    micro_steps = s.total_batch_size // (s.B * s.T * compute.world_size)
    for step in range(first_step, s.max_steps + 1):
        is_last = step == s.max_steps
        if due(step, s.eval_every, is_last):
            val_loss = validation_loss(raw_model, val_loader, s.val_tokens, compute)
            compute.print(f"validation loss: {val_loss:.4f}")
            log.write(step, "val", val_loss)
        if examples and due(step, s.hellaswag_every, is_last):
            log.write(step, "hella", hellaswag_accuracy(raw_model, examples, compute))
        if due(step, s.sample_every, is_last):
            print_samples(raw_model, 42 + compute.rank, compute)
        if compute.rank == 0 and step > first_step and due(step, s.save_every, is_last):
            state = checkpoint_of(s, step, raw_model, optimizer, loader, val_loss)
            print(f"saved {write_checkpoint(s.log_dir, state)}")
        if is_last:
            break
        start = time.perf_counter()
        lr = get_lr(step, s)
        loss, norm = train_step(model, optimizer, loader, compute, micro_steps, lr, s.grad_clip)
        compute.synchronize()
        seconds = time.perf_counter() - start
        loss, norm = loss.item(), norm.item()
        how_fast = speed(s.total_batch_size, seconds, raw_model, compute)
        compute.print(
            f"step {step:5d} | loss: {loss:.6f} | lr {lr:.4e} | norm: {norm:.4f} | {how_fast}"
        )
        if not math.isfinite(loss + norm):
            raise UserError(
                f"step {step}: loss {loss}, norm {norm}; the checkpoints in {s.log_dir} are from"
                " before it: go on with --resume 1 and a lower --max_lr"
            )
        log.write(step, "train", loss)
    compute.print(f"log: {log.path}")


def introduce(s: Settings, compute: Compute) -> None:
    """The first lines: what is trained, where, and what is going to happen."""
    model = f"{s.n_layer} layers of width {s.n_embd}" if s.init_from == "scratch" else s.init_from
    where = f"{compute.device}, {compute.dtype}, torch {torch.__version__}"
    compute.print(f"{model} on {s.data_root}; {where}\n{plan(s, compute.world_size)}")
    if compute.device_type != "cuda" or not Path(s.data_root).is_dir():
        compute.print("no GPU or no shards here: the small settings, where no flag says otherwise")


def run(argv: list[str] | None) -> None:
    """Read the flags, decide where to compute, train, and leave no process behind."""
    given = parse_flags(Settings, argv, SMALL_HELP)
    compute = start_compute(given.get("device"), given.get("dtype"))
    try:
        s = settle(given, compute)
        introduce(s, compute)
        try:
            train(s, compute)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"out of memory with B={s.B} rows of T={s.T}: try --B {max(1, s.B // 2)}; more"
                " micro-steps make up for it, the optimisation stays the same"
            ) from error
    finally:
        if compute.world_size > 1:
            time.sleep(0.1)  # gloo's threads need Python once more, to drop what they summed
            dist.destroy_process_group()


def main(argv: list[str] | None = None) -> None:
    # Memory in pages of 2 MB, where the kernel offers them, costs far fewer page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with one_line_errors():
        run(argv)


if __name__ == "__main__":
    main()
