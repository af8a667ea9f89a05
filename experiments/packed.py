"""Lesson 31: who may see whom when four endings share one context?"""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, PAPER, PURPLE, SOFT, panels
from hellaswag import collate, pack
from support.tokenizer import get_encoding

CONTEXT = "The dog runs to"
ENDINGS = [" the door.", " sleep.", " a big lake.", " the moon."]


def draw(quick: bool) -> Figure:
    encoding = get_encoding()
    context, endings = (
        encoding.encode_ordinary(CONTEXT),
        [encoding.encode_ordinary(ending) for ending in ENDINGS],
    )
    rows = pack(context, endings, 0, 64)
    idx, pos, mask, *_ = collate(rows, "cpu")
    parts = np.array([part for *_, part in rows[0].inputs])
    names = [encoding.decode([token]).strip() for token in idx[0].tolist()]
    print("tokens   ", *names)
    print("positions", *pos[0].tolist())
    print("part     ", *parts)
    plain = 4 * len(context) + sum(len(ending) - 1 for ending in endings)
    print(f"{len(names)} tokens in one row, {plain} in four")
    figure, (axes,) = panels(height=4.2)
    seen = np.where(mask[0, 0].numpy(), 1 + parts[None, :].clip(max=4), 0)
    seen = np.where((seen > 0) & (parts[:, None] > 0) & (parts[None, :] == 0), 1, seen)
    colours = ListedColormap([PAPER, SOFT, BLUE, ORANGE, GREEN, PURPLE])
    axes.pcolormesh(seen, cmap=colours, vmin=0, vmax=5, edgecolors=PAPER, linewidth=1.5)
    places = np.arange(len(names)) + 0.5
    axes.set(aspect="equal", xticks=places, yticks=places, ylabel="this token ...")
    axes.set_xticklabels(names, rotation=90)
    axes.set_yticklabels([f"{name}  {p}" for name, p in zip(names, pos[0].tolist())])
    axes.set(xlabel="... sees these (the number at the left is its position)")
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.text(len(names) + 0.4, 1.5, "story", color=SOFT)
    for n, colour in enumerate((BLUE, ORANGE, GREEN, PURPLE), start=1):
        row = np.flatnonzero(parts == n).mean() + 0.7
        axes.text(len(names) + 0.4, row, f"ending {n - 1}", color=colour)
    return figure
