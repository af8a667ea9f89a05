"""
Train GPT-2 (124M): one file, to be read from top to bottom.

    python train_gpt2.py                                     # a laptop: minutes, on input.txt
    python train_gpt2.py --B 16                              # one GPU and shards of fineweb.py
    torchrun --standalone --nproc_per_node=8 train_gpt2.py   # eight: 10B tokens in hours

bytes -> tokens (support/tokenizer.py, fineweb.py) -> batches (DataLoaderLite) -> logits -> loss
(GPT) -> one step (train_step) -> a line of the log (train)

A step (or update) takes total_batch_size tokens, in micro-steps of B x T. A process, whose number
is its rank, drives one GPU. A shard is a file of tokens.
"""

import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

import hellaswag
from support.cache import Cache
from support.cli import (
    FIXED,
    MIN_0,
    MIN_1,
    POSITIVE,
    SEED,
    SWITCH,
    TYPED,
    UserError,
    flag,
    one_line_errors,
    one_of,
    parse_flags,
)
from support.compute import (
    Compute,
    compile_or_not,
    distribute,
    hint_when_out_of_memory,
    leaving_the_group,
    start_compute,
    use_large_pages,
)
from support.hugging_face import is_pretrained, read_pretrained
from support.loss import TiedEmbedding, chunked_cross_entropy
from support.muon import with_muon
from support.plan import changes, introduce, settle
from support.runs import (
    Log,
    State,
    agreed_checkpoint,
    newest_checkpoint,
    only_run_in,
    read_checkpoint,
    refuse_broken_weights,
    write_checkpoint,
)
from support.shards import load_split, verify_in_background
from support.sizes import RECIPES, SIZES, help_text
from support.stop import Stop, stopping_politely
from support.stream import InOrder, Shuffled
from support.tokenizer import N_VOCAB, get_encoding, refuse_fewer_ids

# ---------- The model -------------------------------------------------------------------


@dataclass
class GPTConfig:
    """The shape of the model; the defaults are GPT-2's smallest, 124M parameters."""

    block_size: int = 1024  # the longest context, in tokens
    vocab_size: int = 50257  # 50,000 merges + 256 bytes + <|endoftext|>; training pads it
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768


# Who reads from whom is an argument: hellaswag.py packs four endings into one row.
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attend_causally(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each token reads from itself and those before it.

    In and out are (B, nh, T, hs): B rows, nh heads, T tokens, hs numbers per head.

    = softmax(q @ k.mT / sqrt(hs), -inf where the key comes later than the query) @ v,
    but the full (T, T) scores never exist (FlashAttention, Dao et al. 2022).
    """
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class CausalSelfAttention(nn.Module):
    """Where tokens communicate."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        assert config.n_embd % config.n_head == 0
        self.n_head = config.n_head
        # query, key and value of all heads: one large matmul instead of 3 x n_head small ones
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
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
        self.gelu = nn.GELU(approximate="tanh")  # GPT-2 was trained with the approximation
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.c_proj.adds_to_residual = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Communicate, then compute; both add to the residual stream.

    LayerNorm comes before each, outside the stream: through the additions the gradient reaches
    every layer unchanged.
    """

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
    | matrices whose output joins the residual    | 0.02 / sqrt(2 n_layer): 2 per layer   |
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
        self.transformer.wte.weight = self.lm_head.weight  # one tensor; its two gradients add up
        self.apply(self._init_weights)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            std = 0.02
            if hasattr(module, "adds_to_residual"):
                std /= math.sqrt(2 * self.config.n_layer)  # the variances of the additions add up
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)  # torch's default is not zero
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

        pos, (T) or (B, T), holds the tokens' positions: 0, 1, 2, ... if not given. attends, one
        function of (q, k, v) per layer, decides which tokens read which: causal if not given.

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
        # = self.transformer.wte(idx), self.lm_head.weight: but their gradients share one tensor
        x, weight = TiedEmbedding.apply(idx, self.lm_head.weight)
        x = self.blocks(x).flatten(0, 1)  # (B * T, n_embd)
        # = F.cross_entropy(x @ weight.T, targets.flatten())
        return None, chunked_cross_entropy(x, weight, targets.flatten())

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> "GPT":
        """OpenAI's weights by name (gpt2, ...), or those of a local Hugging Face folder.

        Raises UserError if there are none, or if they are not GPT-2's.
        """
        shape, weights = read_pretrained(name_or_path)
        model = cls(GPTConfig(**shape))
        model.load_state_dict(weights)
        return model

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> "GPT":
        """The model in a checkpoint from read_checkpoint or newest_checkpoint."""
        model = cls(GPTConfig(**checkpoint["config"]))
        model.load_state_dict(checkpoint["model"])
        return model

    def flops_per_token(self) -> float:
        """Multiplications and additions per training token (PaLM, Chowdhery et al. 2022, app. B).

        Each multiplied weight is used once forward and twice backward, 2 FLOPs each; attention
        adds its products with keys and values.
        """
        c = self.config
        weights = sum(p.numel() for p in self.parameters()) - self.transformer.wpe.weight.numel()
        return 6 * weights + 12 * c.n_layer * c.n_embd * c.block_size

    def configure_optimizers(
        self, weight_decay: float, learning_rate: float, device_type: str, kind: str = "adamw"
    ) -> torch.optim.Optimizer:
        """AdamW with GPT-3's numbers (Brown et al. 2020, appendix B), or, if `kind` is muon, Muon
        for the matrices of the blocks and AdamW for the rest.

        Matrices and embeddings decay: they take part in sums of many products, and decay keeps
        these from leaning on a few large weights. Biases and LayerNorms do not, as in nanoGPT.
        """
        parameters = list(self.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(
            groups,
            lr=learning_rate,
            betas=(0.9, 0.95),
            eps=1e-8,
            fused=device_type in ("cuda", "cpu"),  # one kernel, instead of many per parameter
        )
        return with_muon(adamw, self.transformer.h) if kind == "muon" else adamw

    @torch.no_grad()
    def next_tokens(
        self,
        idx: torch.Tensor,
        max_new_tokens: int,
        top_k: int = 50,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        lengths: torch.Tensor | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Continue each row of idx (B, T), token by token: ids (B), and the logits (B, vocab) that
        they were drawn from, max_new_tokens times.

        Each token is drawn from the top_k likeliest ones; temperature 0 takes the likeliest. The
        context is the last block_size tokens. `generator` lives on idx's device. lengths (B), if
        given, are the rows' lengths: before its last lengths[b] tokens row b is padding.
        """
        block_size = self.config.block_size
        room = min(block_size, idx.size(1) + max_new_tokens)
        padding = None if lengths is None else idx.size(1) - lengths  # (B)
        cache = Cache(self.config.n_layer, room, padding)
        for _ in range(max_new_tokens):
            if idx.size(1) > block_size:
                # No later position was ever learnt, so the window moves. Now each of its tokens has
                # another position, and with it other keys and values: it is read anew.
                cache.clear(moved=idx.size(1) - block_size)
                idx = idx[:, -block_size:]
            logits = cache.read(self, idx[:, cache.length :])
            logits = logits[:, :N_VOCAB]  # ids past N_VOCAB only pad the matrix
            token = draw(logits, top_k, temperature, generator)
            yield token, logits
            idx = torch.cat((idx, token[:, None]), dim=1)

    def generate(
        self,
        idx: torch.Tensor,
        max_new_tokens: int,
        top_k: int = 50,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Continue each row of idx (B, T) by next_tokens -> (B, T + max_new_tokens)."""
        how = top_k, temperature, generator, lengths
        tokens = [token for token, _ in self.next_tokens(idx, max_new_tokens, *how)]
        return torch.cat((idx, *(token[:, None] for token in tokens)), dim=1)


def draw(
    logits: torch.Tensor, top_k: int, temperature: float, generator: torch.Generator | None
) -> torch.Tensor:
    """One id for each row of logits (B, vocab) -> (B)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    top, ids = torch.topk(logits, min(top_k, logits.size(-1)))  # (B, top_k), the largest first
    top = (top - top[:, :1]) / max(temperature, 1e-30)  # 0 or less: nothing overflows
    pick = torch.multinomial(F.softmax(top, dim=-1), 1, generator=generator)  # (B, 1)
    return ids.gather(-1, pick).squeeze(1)


# ---------- The data --------------------------------------------------------------------


class DataLoaderLite:
    """Batches from one endless stream of tokens: the shards again and again, in their order, or,
    with a shuffle_seed, the documents of each epoch in another order (support/stream.py).

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
        shuffle_seed: int | None = None,
    ):
        self.B, self.T, self.vocab_size = B, T, vocab_size
        self.process_rank, self.num_processes = process_rank, num_processes
        self.data_root, self.shards = data_root, load_split(data_root, split)
        in_order = shuffle_seed is None
        self.stream = InOrder(self.shards) if in_order else Shuffled(self.shards, shuffle_seed)
        self.num_tokens = self.stream.num_tokens
        self.reset()

    def reset(self) -> None:
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        """Where it is, and in what: the length of each shard and a checksum of its beginning."""
        shards = [[len(shard), zlib.crc32(shard[:1024])] for shard in self.shards]
        return {"position": self.position, "shards": shards}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError if the shards are others."""
        found = self.state_dict()["shards"]
        if state.get("shards", found) != found:
            was = f"{len(state['shards'])} of {sum(n for n, _ in state['shards']):,}"
            raise UserError(
                f"{self.data_root} holds {len(found)} shard(s) of {self.num_tokens:,} tokens, and"
                f" not those that this run began with, {was}: name these by --data_root"
            )
        self.position = state["position"]

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """This rank's next x and y, both (B, T), int64, on the CPU."""
        start = self.position + self.process_rank * self.B * self.T
        self.position += self.num_processes * self.B * self.T
        return self.rows(start, self.B)

    def rows(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """x and y, both (count, T): one stretch of tokens, seen twice, one token apart."""
        stretch = self.stream.read(start, count * self.T + 1)  # one more, for the last target
        if stretch.max() >= self.vocab_size:
            redo = "write the shards again with python fineweb.py"
            redo = redo if self.vocab_size >= N_VOCAB else "train with --vocab_size 50304"
            raise UserError(
                f"token id {stretch.max()} near position {start} of the data, expected ids"
                f" under {self.vocab_size}: {redo}"
            )
        tokens = torch.from_numpy(stretch.astype(np.int64))
        return tokens[:-1].view(count, self.T), tokens[1:].view(count, self.T)


# ---------- The settings ----------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """A run. Each field is a flag; the defaults are the 10B-token run on eight GPUs.

    support/plan.py fills in those that are None, and what a size sets (support/sizes.py).
    """

    size: str | None = flag(
        None,
        "shape, batch and rate, as listed below (default: gpt2 with a GPU and shards, else small)",
        one_of(*SIZES),
        resume=FIXED,
    )
    recipe: str = flag("paper", "paper, or fast (Muon, 4 x rate)", one_of(*RECIPES), resume=FIXED)
    B: int = flag(64, "micro-batch: rows per forward pass; halve it when out of memory", MIN_1)
    T: int = flag(1024, "tokens per row, and block_size of a new model", MIN_1, resume=FIXED)
    total_batch_size: int = flag(2**19, "tokens per update, by all ranks", MIN_1, resume=FIXED)
    max_steps: int | None = flag(None, "updates (default: enough for 10e9 tokens)", MIN_0, int)
    warmup_steps: int | None = flag(None, "warm-up updates (default: 3.75%, small 5%)", MIN_0, int)
    max_lr: float = flag(6e-4, "peak learning rate", POSITIVE)
    min_lr: float | None = flag(None, "final learning rate (default: max_lr / 10)", MIN_0, float)
    schedule: str = flag("cosine", "cosine, linear or wsd", one_of("cosine", "linear", "wsd"))
    optimizer: str = flag("adamw", "adamw or muon", one_of("adamw", "muon"), resume=FIXED)
    weight_decay: float = flag(0.1, "decay of matrices and embeddings", MIN_0)
    grad_clip: float = flag(1.0, "clip the gradient to this norm", POSITIVE)
    n_layer: int = flag(12, "blocks of a new model", MIN_1, resume=FIXED)
    n_head: int = flag(12, "attention heads per block", MIN_1, resume=FIXED)
    n_embd: int = flag(768, "width of the residual stream", MIN_1, resume=FIXED)
    vocab_size: int = flag(50304, "rows of the embedding, 50257 padded", MIN_1, resume=FIXED)
    data_root: str = flag("edu_fineweb10B", "a folder of shards, or a text file")
    shuffle: int = flag(1, "1: documents in a new order each epoch", SWITCH, resume=FIXED)
    log_dir: str = flag("log", "where log.txt, settings.json and checkpoints go", resume=TYPED)
    eval_every: int = flag(250, "steps between validations; 0: never", MIN_0)
    val_tokens: int = flag(10_485_760, "tokens per validation, at most all there are", MIN_1)
    sample_every: int = flag(250, "steps between samples; 0: never", MIN_0)
    hellaswag_every: int = flag(250, "steps between HellaSwag evaluations; 0: never", MIN_0)
    save_every: int = flag(5000, "steps between checkpoints, besides the end; 0: never", MIN_0)
    keep: int = flag(0, "checkpoints to keep, the newest; 0: all", MIN_0)
    init_from: str = flag("scratch", "scratch, gpt2..gpt2-xl, folder or file", resume=FIXED)
    resume: str = flag(
        "0",
        "1: go on with the newest checkpoint in log_dir; auto: the same, or begin if there is none",
        one_of("0", "1", "auto"),
        resume=TYPED,
    )
    compile: int | None = flag(None, "1: torch.compile (default: 1 where the GPU can)", SWITCH, int)
    dtype: str | None = flag(None, "float32 or bfloat16 (default: bfloat16 if in hardware)")
    device: str | None = flag(None, "cpu, cuda, cuda:N or mps (default: the best)", resume=TYPED)
    seed: int = flag(1337, "of a new model's weights and the documents' order", SEED, resume=FIXED)


# ---------- The schedule and the step ---------------------------------------------------


def get_lr(step: int, s: Settings) -> float:
    """Learning rate of update `step`: linear to max_lr, then down to min_lr at max_steps."""
    if step < s.warmup_steps:
        return s.max_lr * (step + 1) / s.warmup_steps  # + 1: at rate 0 a step would be wasted
    progress = (step - s.warmup_steps) / max(1, s.max_steps - s.warmup_steps)  # 0 to 1
    height = {  # 1 to 0
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "wsd": min(1, 5 * (1 - progress)),  # warm up, stay, and decay over the last fifth
    }[s.schedule]
    return s.min_lr + height * (s.max_lr - s.min_lr)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoaderLite,
    compute: Compute,
    micro_steps: int,
    learning_rate: float,
    grad_clip: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update by gradient accumulation: micro_steps batches, as the tokens do not fit at once.

    Returns the mean loss of this process's batches and the norm of the whole gradient before
    clipping, both still on the device: asking for their values would wait for it.
    """
    total = torch.zeros((), device=compute.device)
    for micro_step in range(micro_steps):
        x, y = compute.to_device(*loader.next_batch())
        is_last = micro_step == micro_steps - 1
        # The processes average their gradients once, in the last backward pass. DDP (Distributed-
        # DataParallel) decides that in the forward pass, so no_sync stands around both.
        with nullcontext() if is_last or compute.world_size == 1 else model.no_sync():
            with compute.autocast():  # the backward pass follows the forward pass's dtypes
                _, loss = model(x, y)
            loss = loss / micro_steps  # the sum of the means would be micro_steps times the mean
            total += loss.detach()
            loss.backward()  # adds to the gradients that are there
    norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)  # of the whole step's gradient
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad()  # or the next step's would be added to these
    return total, norm


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
            " try a smaller --T, more text or --val_tokens, or --eval_every 0"
        )
    total = torch.zeros((), device=compute.device)  # stays there: no waiting for each batch
    for first in range(loader.process_rank * loader.B, rows, loader.num_processes * loader.B):
        count = min(loader.B, rows - first)
        x, y = compute.to_device(*loader.rows(first * loader.T, count))
        with compute.autocast():
            total += model(x, y)[1] * (count / rows)  # the last batch may have fewer rows
    return compute.sum(total).item()


def print_samples(model: GPT, compute: Compute) -> None:
    """Four samples of 32 tokens, by rank 0."""
    if compute.rank != 0:
        return
    try:
        encoding = get_encoding()
        refuse_fewer_ids(model.config.vocab_size, "the model")
    except UserError as error:
        print(f"samples skipped: {error}")
        return
    # Their own generator: how often samples are drawn does not change the training.
    generator = torch.Generator(device=compute.device).manual_seed(42)
    start = torch.tensor(encoding.encode("Hello, I'm a language model,"), device=compute.device)
    with compute.autocast():
        rows = model.generate(start.repeat(4, 1), 32 - len(start), generator=generator)
    for row in rows.tolist():
        print(f"> {encoding.decode(row)}", flush=True)


@torch.no_grad()
def hellaswag_accuracy(model: GPT, examples: list[dict], compute: Compute) -> float:
    """Print and return the share of right answers (acc_norm) over all processes."""
    with compute.autocast():
        _, right = hellaswag.evaluate(model, examples, get_encoding(), compute.device)
    right, count = compute.sum(torch.tensor([right, len(examples)], device=compute.device)).tolist()
    compute.print(f"HellaSwag accuracy: {right}/{count}={right / count:.4f}")
    return right / count


# ---------- The run ---------------------------------------------------------------------


def load_model(name_or_path: str) -> GPT:
    """OpenAI's model of this name, or the one in a Hugging Face folder, in a checkpoint.pt, or in
    the newest checkpoint of a run's log_dir."""
    path = Path(name_or_path)
    if path.suffix == ".pt":
        return GPT.from_checkpoint(read_checkpoint(path))
    if path.is_dir() and not is_pretrained(path):
        return GPT.from_checkpoint(newest_checkpoint(name_or_path))
    return GPT.from_pretrained(name_or_path)


def start_model(s: Settings) -> GPT:
    """A new model of the settings' shape."""
    return GPT(GPTConfig(s.T, s.vocab_size, s.n_layer, s.n_head, s.n_embd))


def start_from(given: dict[str, Any], compute: Compute) -> tuple[GPT | None, dict[str, Any] | None]:
    """The trained model of --resume or --init_from, and the checkpoint of --resume."""
    resume, log_dir = given.get("resume", "0"), given.get("log_dir", Settings.log_dir)
    checkpoint = None if resume == "0" else agreed_checkpoint(log_dir, compute, resume, Settings)
    if checkpoint:
        return GPT.from_checkpoint(checkpoint), checkpoint
    if given.get("init_from", "scratch") != "scratch":
        return load_model(given["init_from"]), None
    return None, None


def due(step: int, every: int, is_last: bool) -> bool:
    """Whether something done every so many steps, and at the end, is due now."""
    return every > 0 and (step % every == 0 or is_last)


def save(state: State, compute: Compute, is_needed: bool) -> None:
    """A checkpoint, by rank 0. One that cannot be written ends the run only if it is needed.

    Raises UserError, on all processes, if the weights are not finite.
    """
    s = state.settings
    refuse_broken_weights(state.model, state.step, s.log_dir)
    if compute.rank != 0:
        return
    try:
        print(f"saved {write_checkpoint(s.log_dir, state.state_dict(), s.keep)}", flush=True)
    except UserError as error:
        if is_needed:
            raise
        print(f"{error}; the run goes on, the checkpoint before is kept", flush=True)


def save_and_leave(state: State, compute: Compute, stop: Stop) -> NoReturn:
    """After an update, on all processes: what is done is not lost.

    Raises UserError, and saves nothing, if there is something wrong with the data.
    """
    if 1 in compute.gather(int(stop.reason != "")):
        raise UserError(stop.reason)
    state.step += 1
    save(state, compute, is_needed=True)
    compute.print("stopped; go on with --resume 1")
    sys.exit(stop.exit_code())


def train(
    s: Settings,
    compute: Compute,
    trained: GPT | None = None,
    checkpoint: dict[str, Any] | None = None,
    stop: Stop | None = None,
) -> None:
    """The run: max_steps updates, and what happens between them.

    It begins with a new model or a trained one, or goes on with what a checkpoint holds. Where
    `stop` says so, it ends after the step, with SystemExit.
    """
    stop = stop or Stop()
    torch.manual_seed(s.seed)  # the same on all ranks, so all start with the same weights
    raw_model = (trained or start_model(s)).to(compute.device)
    how = s.weight_decay, s.max_lr, compute.device_type, s.optimizer
    optimizer = raw_model.configure_optimizers(*how)
    ranks = compute.rank, compute.world_size
    vocab_size = min(N_VOCAB, raw_model.config.vocab_size)  # the loader refuses other ids
    shuffle_seed = s.seed if s.shuffle else None
    loader = DataLoaderLite(s.B, s.T, *ranks, "train", s.data_root, vocab_size, shuffle_seed)
    if s.eval_every > 0:
        val_loader = DataLoaderLite(s.B, s.T, *ranks, "val", s.data_root, vocab_size)
    state = State(raw_model, optimizer, loader, s)
    if checkpoint:
        state.load_state_dict(checkpoint)
        state.resumed.append({"step": state.step, **changes(s, checkpoint)})
    first_step = state.step
    examples = hellaswag.share(compute, vocab_size) if s.hellaswag_every > 0 else None
    run = {"settings": asdict(s), "resumed": state.resumed}
    run["compute"] = {**asdict(compute), "dtype": str(compute.dtype)}
    compute.barrier()  # all have read what they start from: Log moves an earlier run away
    log = Log(s.log_dir, run, compute.rank, first_step)
    # Only the step is compiled and distributed: its shapes never change. Evaluation, samples and
    # checkpoints use the raw model, whose weights are the same tensors. (Validating eagerly
    # adds 2.7% to the full run's arithmetic: a second compilation would save little of that.)
    model = distribute(compile_or_not(raw_model, compute, s.compile, s.B, s.T), compute)
    micro_steps = s.total_batch_size // (s.B * s.T * compute.world_size)
    if compute.rank == 0:
        verify_in_background(Path(s.data_root), stop.because_of)
    # One round more than there are updates: the last one evaluates and saves the finished model.
    for step in range(first_step, s.max_steps + 1):
        state.step = step
        is_last = step == s.max_steps
        if due(step, s.eval_every, is_last):
            state.val_loss = validation_loss(raw_model, val_loader, s.val_tokens, compute)
            compute.print(f"validation loss: {state.val_loss:.4f}")
            log.write(step, "val", state.val_loss)
        if examples is not None and due(step, s.hellaswag_every, is_last):
            log.write(step, "hella", hellaswag_accuracy(raw_model, examples, compute))
        if due(step, s.sample_every, is_last):
            print_samples(raw_model, compute)
        if step > first_step and due(step, s.save_every, is_last):
            save(state, compute, is_last)
        if is_last:
            break
        start = time.perf_counter()
        lr = get_lr(step, s)
        loss, norm = train_step(model, optimizer, loader, compute, micro_steps, lr, s.grad_clip)
        # DDP averages gradients, not losses. With their sum all learn who was told to stop.
        loss_stops = compute.sum(stop.beside(loss / compute.world_size))
        compute.synchronize()
        seconds = time.perf_counter() - start  # of the update alone
        (loss, stops), norm = loss_stops.tolist(), norm.item()
        line = f"step {step:5d} | loss: {loss:.6f} | lr {lr:.4e} | norm: {norm:.4f}"
        tok_per_sec = s.total_batch_size / seconds
        line += f" | dt: {seconds * 1000:.2f}ms | tok/sec: {tok_per_sec:.2f}"
        mfu = compute.mfu(raw_model.flops_per_token() * tok_per_sec)
        compute.print(line if mfu is None else f"{line} | mfu: {mfu:.1%}")
        if not math.isfinite(loss + norm):
            raise UserError(
                f"step {step}: loss {loss}, norm {norm}; the checkpoints in {s.log_dir} are from"
                " before this step: continue with --resume 1 and a lower --max_lr"
            )
        log.write(step, "train", loss)
        if stops > 0 and step + 1 < s.max_steps:
            save_and_leave(state, compute, stop)
    if log.has_begun:
        compute.print(f"log: {log.path}")


# ---------- The command line ------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    use_large_pages()
    with one_line_errors():
        given = parse_flags(Settings, argv, help_text())
        compute = start_compute(given.get("device"), given.get("dtype"))
        log_dir = given.get("log_dir", Settings.log_dir)
        with leaving_the_group(compute), only_run_in(log_dir, compute, given.get("resume", "0")):
            trained, checkpoint = start_from(given, compute)
            s = settle(Settings(), given, compute, trained and trained.config, checkpoint)
            compute = compute.with_dtype(s.dtype)
            introduce(s, given, compute, checkpoint)
            with hint_when_out_of_memory(s.B, s.T), stopping_politely() as stop:
                train(s, compute, trained, checkpoint, stop)


if __name__ == "__main__":
    main()
