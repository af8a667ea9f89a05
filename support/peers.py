"""
What bench.py measures this project against.

The plain form is what a lecture starts from, and what the well-known one-file trainers do:
eager, all logits at once, unfused AdamW; for HellaSwag one example per forward pass, for samples
no cache, for tokens one tiktoken process per two cores. The other peer is Hugging
Face's transformers. Each function takes what both sides share, such as weights and batches,
prepares a side, and returns its Run, one turn of it.
"""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F

from support.compute import Compute, start_compute
from support.tokenizer import EOT, N_VOCAB, get_encoding

Run = Callable[[], Any]
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
Settings = Any  # train_gpt2.Settings, which this module does not import
Config = Any  # train_gpt2.GPTConfig

# ---------- Models ----------------------------------------------------------------------


class PlainGPT(nn.Module):
    """GPT-2 in the plain form; its weights have the same names as train_gpt2.GPT's."""

    def __init__(self, config: Config, flash: bool):
        super().__init__()
        self.config, self.flash, C = config, flash, config.n_embd
        embeddings = dict(
            wte=nn.Embedding(config.vocab_size, C), wpe=nn.Embedding(config.block_size, C)
        )
        blocks = nn.ModuleList(self.block(C) for _ in range(config.n_layer))
        self.transformer = nn.ModuleDict({**embeddings, "h": blocks, "ln_f": nn.LayerNorm(C)})
        self.lm_head = nn.Linear(C, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    @staticmethod
    def block(C: int) -> nn.ModuleDict:
        attn = nn.ModuleDict(dict(c_attn=nn.Linear(C, 3 * C), c_proj=nn.Linear(C, C)))
        mlp = nn.ModuleDict(dict(c_fc=nn.Linear(C, 4 * C), c_proj=nn.Linear(4 * C, C)))
        return nn.ModuleDict(dict(ln_1=nn.LayerNorm(C), attn=attn, ln_2=nn.LayerNorm(C), mlp=mlp))

    def attend(self, x: torch.Tensor, attn: nn.ModuleDict) -> torch.Tensor:
        B, T, C = x.shape
        heads = B, T, self.config.n_head, C // self.config.n_head
        q, k, v = (part.view(heads).transpose(1, 2) for part in attn.c_attn(x).split(C, dim=2))
        if self.flash:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))  # (B, nh, T, T)
            future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
            y = F.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ v
        return attn.c_proj(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """Token ids (B, T) -> all the logits, (B, T, vocab_size)."""
        pos = torch.arange(idx.size(1), device=idx.device)
        x = self.transformer.wte(idx) + self.transformer.wpe(pos)
        for block in self.transformer.h:
            x = x + self.attend(block.ln_1(x), block.attn)
            hidden = F.gelu(block.mlp.c_fc(block.ln_2(x)), approximate="tanh")
            x = x + block.mlp.c_proj(hidden)
        return self.lm_head(self.transformer.ln_f(x))


def plain_model(ours: nn.Module, flash: bool = True) -> PlainGPT:
    """Our weights in the plain form."""
    model = PlainGPT(ours.config, flash)
    model.load_state_dict(ours.state_dict())
    return model.to(next(ours.parameters()).device)


def transformers_model(config: Config) -> nn.Module:
    """A new GPT-2 from Hugging Face, without dropout, like ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    theirs = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.block_size,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(theirs)


# ---------- Training steps --------------------------------------------------------------


def plain_step(
    model: PlainGPT,
    batches: Batches,
    rates: Iterator[float],
    compute: Compute,
    s: Settings,
    fused: bool = False,
) -> Run:
    """A step of the plain form; returns the loss."""
    vectors = [p for p in model.parameters() if p.dim() < 2]
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, betas=(0.9, 0.95), weight_decay=s.weight_decay, fused=fused
    )

    def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    loss_of = torch.compile(forward) if s.compile else forward

    def run() -> float:
        x, y = next(batches)
        optimizer.zero_grad()
        with compute.autocast():
            loss = loss_of(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip)
        lr = next(rates)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        return loss.item()

    return run


def transformers_step(model: nn.Module, batches: Batches, compute: Compute, s: Settings) -> Run:
    """A step as their Trainer takes it by default: fused AdamW, the loss from `labels`."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.max_lr, fused=True)

    def run() -> float:
        x, _ = next(batches)
        with compute.autocast():
            loss = model(input_ids=x, labels=x).loss  # they shift the labels themselves
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip)
        optimizer.step()
        model.zero_grad()
        return loss.item()

    return run


# ---------- The head and its loss -------------------------------------------------------


def head_problem(s: Settings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the head and its loss are given in a step: x, the weight, the targets."""
    torch.manual_seed(s.seed)
    x = torch.randn(s.B * s.T, s.n_embd, device=s.device)
    weight = 0.02 * torch.randn(s.vocab_size, s.n_embd, device=s.device)
    return x, weight, torch.randint(N_VOCAB, (s.B * s.T,), device=s.device)


def head(s: Settings, cross_entropy: Callable[..., torch.Tensor]) -> Run:
    """Forward and backward of a loss of (x, weight, targets); returns the loss."""
    compute, (x, weight, targets) = start_compute(s.device, s.dtype), head_problem(s)
    leaves = x.requires_grad_(), weight.requires_grad_()

    def run() -> float:
        with compute.autocast():
            loss = cross_entropy(*leaves, targets)
        torch.autograd.grad(loss, leaves)
        return loss.item()

    return run


def plain_head(s: Settings) -> Run:
    return head(s, lambda x, weight, targets: F.cross_entropy(F.linear(x, weight), targets))


def three_matmuls(s: Settings) -> Run:
    """The logits, and two matmuls with them: no less is possible."""
    compute, (x, weight, _) = start_compute(s.device, s.dtype), head_problem(s)
    x, weight = x.to(compute.dtype), weight.to(compute.dtype)

    def run() -> None:
        logits = x @ weight.t()
        torch.mm(logits, weight)
        torch.mm(logits.t(), x)
        compute.synchronize()

    return run


# ---------- Tokens, HellaSwag, samples --------------------------------------------------


def encode_plainly(text: str) -> np.ndarray:
    tokens = np.array([EOT] + get_encoding().encode_ordinary(text))
    assert (tokens >= 0).all() and (tokens < 2**16).all()
    return tokens.astype(np.uint16)


def plain_shards(
    read_texts: Callable[[], Iterable[str]], shard_path: Callable[[int], Path], shard_size: int
) -> Run:
    """The well-known way: processes that send back an array for each document."""
    processes = max(1, (os.cpu_count() or 1) // 2)
    pool = multiprocessing.Pool(processes, initializer=get_encoding)
    pool.map(encode_plainly, [""] * processes)  # ready before the clock starts

    def run() -> None:
        shard, filled, index = np.empty(shard_size, dtype=np.uint16), 0, 0
        for tokens in pool.imap(encode_plainly, read_texts(), chunksize=16):
            while filled + len(tokens) >= shard_size:
                shard[filled:], tokens = np.split(tokens, [shard_size - filled])
                np.save(shard_path(index), shard)
                filled, index = 0, index + 1
            shard[filled : filled + len(tokens)] = tokens
            filled += len(tokens)
        if filled:
            np.save(shard_path(index), shard[:filled])

    return run


def plain_scoring(
    model: PlainGPT, examples: list[dict[str, Any]], render: Callable, compute: Compute
) -> Run:
    """One example (four rows) per forward pass, with the loss at all positions.

    render(example) gives the ids of its context, those of its endings, and its label. Returns
    how many are right, by the sum and by the mean of the losses.
    """

    @torch.no_grad()
    def is_right(example: dict[str, Any]) -> tuple[bool, bool]:
        context, endings, label = render(example)
        tokens = torch.zeros(4, len(context) + max(map(len, endings)), dtype=torch.long)
        mask = torch.zeros(tokens.shape)  # 1 for an ending's tokens
        for row, ending in enumerate(endings):
            end = len(context) + len(ending)
            tokens[row, :end] = torch.tensor(context + ending)
            mask[row, len(context) : end] = 1
        tokens, mask = compute.to_device(tokens, mask[:, 1:])
        with compute.autocast():
            logits = model(tokens)[:, :-1].flatten(0, 1)
            losses = F.cross_entropy(logits.float(), tokens[:, 1:].flatten(), reduction="none")
        sums = (losses.view(4, -1) * mask).sum(1)
        return sums.argmin().item() == label, (sums / mask.sum(1)).argmin().item() == label

    return lambda: tuple(map(sum, zip(*map(is_right, examples))))


def plain_samples(model: PlainGPT, start: torch.Tensor, new_tokens: int, compute: Compute) -> Run:
    """All logits of all positions for each new token, though only the last position's are used."""

    @torch.no_grad()
    def run() -> torch.Tensor:
        idx = start
        with compute.autocast():
            for _ in range(new_tokens):
                top, ids = torch.topk(F.softmax(model(idx)[:, -1, :], dim=-1), 50, dim=-1)
                idx = torch.cat((idx, ids.gather(-1, torch.multinomial(top, 1))), dim=1)
        return idx.cpu()

    return run


def transformers_samples(
    model: nn.Module, start: torch.Tensor, new_tokens: int, compute: Compute
) -> Run:
    """Their generate, with its cache of keys and values."""
    model.eval()
    options = dict(max_new_tokens=new_tokens, do_sample=True, top_k=50, pad_token_id=EOT)

    def run() -> torch.Tensor:
        with compute.autocast():
            return model.generate(start, attention_mask=torch.ones_like(start), **options).cpu()

    return run
