"""Lesson 17: how does the model rule out ids that never occur?"""

import torch
from matplotlib.figure import Figure

from experiments.drawing import SOFT, panels
from experiments.small import small_model, text
from support.tokenizer import N_VOCAB


def draw(quick: bool) -> Figure:
    model, loader = small_model(), text(B=4)
    vocab = model.config.vocab_size
    used = torch.zeros(vocab, dtype=torch.bool)
    for _ in range(20 if quick else 1200):  # all of input.txt
        used[loader.next_batch()[0]] = True
    loader, padding = text(B=4), torch.arange(vocab) >= N_VOCAB
    groups = {
        "tokens of the text": used,
        "tokens that never occur": ~used & ~padding,
        "padding": padding,
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = 4 if quick else 60
    curves = {name: [] for name in groups}
    for _ in range(steps):
        x, y = loader.next_batch()
        with torch.no_grad():
            p = torch.softmax(model.lm_head(model.hidden(x[:1])), dim=-1).mean((0, 1))
        for name, group in groups.items():
            curves[name].append(p[group].mean().item())
        model(x, y)[1].backward()
        optimizer.step()
        optimizer.zero_grad()
    figure, (axes,) = panels(height=3.0)
    for name, curve in curves.items():
        count = int(groups[name].sum())
        axes.plot(curve, "--" if count == 47 else "-", label=f"{name} ({count:,} ids)")
        print(f"{name:<24} {count:6,} ids, mean probability of one:", end="")
        print("".join(f"  step {i}: {curve[i]:.1e}" for i in range(0, steps, 10)), end="")
        print(f"  step {steps - 1}: {curve[-1]:.1e}")
    axes.axhline(1 / vocab, color=SOFT, linewidth=1, linestyle=":")
    axes.set(yscale="log", xlabel="step", ylabel="mean probability of one id", ylim=(1e-6, 1e-3))
    axes.legend(loc="upper right")
    return figure
