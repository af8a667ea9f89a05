"""Lesson 30: what does a small model answer, and how sure is it?"""

import torch
from matplotlib.figure import Figure

from experiments.drawing import ORANGE, PAPER, SOFT, panels
from experiments.small import T, small_model, text
from hellaswag import fit, load_examples, render, score
from support.tokenizer import get_encoding
from train_gpt2 import GPT

QUESTIONS = "tests/data/hellaswag_8.jsonl"
SHOWN = [1, 3, 4, 5]  # the shortest of the eight


def trained(steps: int) -> GPT:
    """The small model after some steps on the plays: 256 tokens each, rate 0.002."""
    model, loader = small_model(), text(B=4)
    optimizer = model.configure_optimizers(0.1, 2e-3, "cpu")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 60)
        optimizer.zero_grad()
        model(*loader.next_batch())[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def draw(quick: bool) -> Figure:
    model = trained(2 if quick else 400)
    examples, encoding = load_examples(QUESTIONS), get_encoding()
    rendered = [render(example, encoding) for example in examples]
    with torch.no_grad():
        sums = score(model, [fit(c, e, T) for c, e, _ in rendered], "cpu").tolist()
    means = [
        [loss / len(ending) for loss, ending in zip(row, endings)]
        for row, (_, endings, _) in zip(sums, rendered)
    ]
    labels = [label for *_, label in rendered]
    for name, table in (("sum", sums), ("mean", means)):
        hits = sum(row.index(min(row)) == label for row, label in zip(table, labels))
        print(f"by the {name}: {hits} of {len(labels)} right")
    figure, axes = panels(2, rows=2, height=5.0)
    for number, (axis, i) in enumerate(zip(axes, SHOWN), start=1):
        print(f"\n{examples[i]['ctx']}")
        for n, ending in enumerate(examples[i]["endings"]):
            size, picked = len(rendered[i][1][n]), min(means[i]) == means[i][n]
            marks = f"{'true' * (n == labels[i]):4} {'picked' * picked:6}"
            print(f"{sums[i][n]:6.2f} /{size:2} = {means[i][n]:.2f}  {marks}  {ending}")
        colours = [ORANGE if n == labels[i] else SOFT for n in range(4)]
        bars = axis.bar(range(4), means[i], color=colours, width=0.7)
        axis.bar_label(bars, fmt="%.2f", fontsize=9)
        axis.plot(means[i].index(min(means[i])), min(means[i]) - 0.4, "v", color=PAPER)
        axis.set(xlabel="ending", xticks=range(4), title=f"question {number}")
        axis.set(ylabel="mean loss (nats a token)", ylim=(0, 11))
        axis.grid(axis="x", visible=False)
        axis.set_axisbelow(True)
    return figure
