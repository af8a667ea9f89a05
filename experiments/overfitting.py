"""Lesson 28: when does a model stop learning English and start learning its text by heart?"""

import torch
from matplotlib.figure import Figure

from experiments.drawing import BLUE, ORANGE, SOFT, panels
from experiments.small import T, small_model, text

TRAIN, HELD_OUT, B = 4096, 4096, 8  # tokens


def draw(quick: bool) -> Figure:
    epochs = 2 if quick else 40
    loader = text(B)
    pairs = [loader.rows(start, size // T) for start, size in ((0, TRAIN), (200_000, HELD_OUT))]
    occurring, ids = torch.cat([part for pair in pairs for part in pair]).unique(
        return_inverse=True  # the tokens get new numbers: a small vocabulary is quick
    )
    train, held_out = (part.chunk(2) for part in ids.split([2 * TRAIN // T, 2 * HELD_OUT // T]))
    model = small_model(n_layer=2, n_embd=64, vocab_size=len(occurring))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(occurring):,} distinct tokens, {parameters:,} parameters")
    optimizer = model.configure_optimizers(0.1, 3e-3, "cpu")
    seen = {"train": [], "validation": []}
    for _ in range(epochs + 1):
        model.eval()
        with torch.no_grad():
            seen["train"].append(model(*train)[1].item())
            seen["validation"].append(model(*held_out)[1].item())
        model.train()
        for x, y in zip(*(part.split(B) for part in train)):
            optimizer.zero_grad()
            model(x, y)[1].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    best = min(range(epochs + 1), key=seen["validation"].__getitem__)
    for epoch in sorted({0, 1, 2, 4, 8, 10, best, 16, 24, 32, epochs}):
        if epoch <= epochs:
            print(f"epoch {epoch:2}", *(f"{name} {row[epoch]:6.3f}" for name, row in seen.items()))
    print(f"validation is lowest after epoch {best}")
    figure, (axes,) = panels()
    axes.plot(seen["train"], color=BLUE, label=f"the {TRAIN:,} tokens it trains on")
    axes.plot(seen["validation"], color=ORANGE, label=f"{HELD_OUT:,} tokens it never trains on")
    axes.axvline(best, color=SOFT, linewidth=1, linestyle=":")
    axes.text(best + 0.5, 0.4, f"lowest: epoch {best}", color=SOFT)
    axes.set(xlabel="epoch: times through the training text", ylabel="loss (nats)", ylim=(0, 10))
    axes.legend(loc="center right")
    return figure
