"""Lesson 02: what do the four heads of a small trained model look at?"""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch.nn import functional as F

from experiments.drawing import BLUE, panels
from experiments.small import TEXT, small_model, text
from support.tokenizer import get_encoding
from train_gpt2 import GPT

SENTENCE = "First Citizen:\nWe know the people, and the people know us"
LAYER = 1  # counted from 0


def used_tokens() -> torch.Tensor:
    """The tokens that occur in input.txt, in order: training on these alone is 4 times as fast."""
    return torch.tensor(get_encoding().encode(Path(TEXT).read_text())).unique()


def train(model: GPT, steps: int, rate: float = 2e-3) -> float:
    """AdamW at a constant rate, 4 rows a step, ids counted in used_tokens(); the last loss."""
    loader, used, loss = text(B=4), used_tokens(), torch.tensor(0.0)
    optimizer = model.configure_optimizers(0.1, rate, "cpu")
    for _ in range(steps):
        x, y = (torch.searchsorted(used, part) for part in loader.next_batch())
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@torch.no_grad()
def watch(model: GPT, idx: torch.Tensor) -> tuple[list[torch.Tensor], list[float]]:
    """Each layer's attention weights (heads, T, T), and the size of what each block adds."""
    weights, added = [], []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        future = torch.ones(q.size(-2), q.size(-2), dtype=torch.bool).triu(1)
        scores = (q @ k.mT / q.size(-1) ** 0.5).masked_fill(future, float("-inf"))
        weights.append(F.softmax(scores, dim=-1)[0])
        return F.softmax(scores, dim=-1) @ v

    def note(_, inputs, output) -> None:
        added.append(((output - inputs[0]).norm(dim=-1) / inputs[0].norm(dim=-1)).mean().item())

    hooks = [block.register_forward_hook(note) for block in model.transformer.h]
    model.hidden(idx, attends=[attend] * len(hooks))
    for hook in hooks:
        hook.remove()
    return weights, added


def draw(quick: bool) -> Figure:
    used, encoding = used_tokens(), get_encoding()
    model, ids = small_model(vocab_size=len(used)), encoding.encode(SENTENCE)
    idx = torch.searchsorted(used, torch.tensor([ids]))
    print("what each block adds, of the size of its input:")
    print("  before training", " ".join(f"{x:.2f}" for x in watch(model, idx)[1]))
    loss = train(model, steps=2 if quick else 400)
    weights, added = watch(model, idx)
    print("  after          ", " ".join(f"{x:.2f}" for x in added), f" (last loss {loss:.2f})")
    words = [encoding.decode([i]).strip(" ").replace("\n", "\\n") for i in ids]
    for head, attention in enumerate(weights[LAYER]):
        most = [f"{words[i]}<{words[j]}" for i, j in enumerate(attention.argmax(dim=-1))]
        print(f"layer {LAYER} head {head}, who reads whom most:", *most)
    labels = [word if word.isalpha() else f'"{word}"' for word in words]
    figure, axes = panels(2, rows=2, height=7.2)
    for head, (ax, attention) in enumerate(zip(axes, weights[LAYER], strict=True)):
        for i, j in (attention > 0.02).nonzero().tolist():
            shade = attention[i, j].item()
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fc=BLUE, lw=0, alpha=shade))
        ax.set(title=f"head {head}", xticks=range(len(ids)), yticks=range(len(ids)))
        ax.set_xticklabels(labels, rotation=90, fontsize=8.5)
        ax.set_yticklabels(labels, fontsize=8.5)
        ax.set(xlim=(-0.5, len(ids) - 0.5), ylim=(len(ids) - 0.5, -0.5), aspect="equal")
        ax.set(xlabel="is read", ylabel="reads")
        ax.grid(False)
    return figure
