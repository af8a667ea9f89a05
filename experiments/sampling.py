"""Lesson 05: how is the probability spread over the tokens, and what does temperature do?"""

import torch
from matplotlib.figure import Figure

from experiments.attention import train, used_tokens
from experiments.drawing import PAPER, SOFT, panels
from experiments.small import small_model
from support.tokenizer import get_encoding

PROMPT = "First Citizen:\nWe"


def draw(quick: bool) -> Figure:
    used, encoding = used_tokens(), get_encoding()
    model = small_model(vocab_size=len(used))
    loss = train(model, 2 if quick else 400)
    idx = torch.searchsorted(used, torch.tensor([encoding.encode(PROMPT)]))
    with torch.no_grad():
        logits = model(idx)[0][0, -1]
    words = [repr(encoding.decode([i])) for i in used[logits.topk(8).indices].tolist()]
    figure, axes = panels(2, height=2.9)
    print(f"the likeliest after {PROMPT!r}, last loss {loss:.2f}:", *words)
    ranks = [*range(10), *range(10, 100, 5), *range(100, len(used), 100)]
    for temperature in (0.5, 1.0, 2.0):
        p = torch.softmax(logits / temperature, dim=-1).sort(descending=True).values
        axes[1].plot([r + 1 for r in ranks], p[ranks], label=f"temperature {temperature}")
        first, rest = p[:5].tolist(), p[50:].sum().item()
        print(
            f"temperature {temperature}:", *(f"{x:.3f}" for x in first), f"outside 50: {rest:.3f}"
        )
    p = torch.softmax(logits, dim=-1).topk(8).values
    axes[0].barh(range(8), p)
    axes[0].set(yticks=range(8), yticklabels=words, xlabel="probability")
    axes[0].invert_yaxis()
    axes[0].grid(False)
    axes[1].axvline(50, color=SOFT, lw=1, ls=":")
    axes[1].text(55, 0.2, "top-k 50\nkeeps the left", color=SOFT, fontsize=8.5, va="center")
    axes[1].set(xscale="log", yscale="log", ylim=(1e-12, 2), xlabel="rank of the token")
    axes[1].set(ylabel="probability")
    axes[1].legend(loc="lower left", frameon=True, framealpha=1, facecolor=PAPER, edgecolor="none")
    return figure
