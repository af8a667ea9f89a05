"""Lesson 35: what have others measured, in a run like this one?"""

import math

from matplotlib.figure import Figure

from experiments.drawing import BLUE, GREEN, ORANGE, SOFT, panels

# llm.c's run on FineWeb, logged in modded-nanogpt: step, validation loss; README.md has the table
LLM_C = {250: 6.17, 500: 5.37, 1000: 4.32, 2000: 3.86, 5000: 3.55, 10000: 3.39, 15000: 3.30}
LLM_C[19560] = 3.27  # the end; step 0 was at 11.01
SCORES = {  # HellaSwag by the mean, in percent; who says so is in book/results.md
    "guessing": (25.0, SOFT),
    "GPT-2 124M": (29.55, ORANGE),
    "llm.c, 10B tokens": (29.9, BLUE),
    "the video, 40B": (33.24, BLUE),
    "GPT-3 Small, 300B": (33.7, ORANGE),
    "GPT-2 XL, 1558M": (48.93, ORANGE),
}


def draw(quick: bool) -> Figure:
    figure, (left, right) = panels(2, height=3.0)
    tokens = [step * 2**19 / 1e9 for step in LLM_C]
    left.plot(tokens, list(LLM_C.values()), "o-", color=BLUE, markersize=4)
    for step, loss in LLM_C.items():
        print(f"{step:6,} steps, {step * 2**19 / 1e9:5.2f}B tokens: {loss:.2f} nats, "
              f"perplexity {math.exp(loss):.0f}")  # fmt: skip
    arrow = dict(arrowstyle="->", color=SOFT)
    left.annotate("half the tokens: 3.39", (5.24, 3.45), (0.62, 4.9), color=SOFT, arrowprops=arrow)
    left.set(xscale="log", xlabel="tokens read (billions)", ylabel="validation loss (nats)")
    left.set(xticks=[0.1, 1, 10], xticklabels=["0.1", "1", "10"], xlim=(0.1, 15), ylim=(2.75, 6.5))
    for row, (name, (score, colour)) in enumerate(SCORES.items()):
        print(f"{name:<18} {score:.2f} %")
        right.barh(row, score, color=colour, height=0.65)
        right.text(score + 0.7, row, f"{score:.2f}", va="center")
    right.axvline(95, color=GREEN, linewidth=1.2, linestyle=":")
    right.text(93, 0, "people: 95", ha="right", va="center", color=GREEN)
    right.set(yticks=range(len(SCORES)), yticklabels=SCORES, xlim=(0, 100))
    right.set(xlabel="HellaSwag, right answers (%)")
    right.grid(axis="y", visible=False)
    right.set_axisbelow(True)
    right.invert_yaxis()
    return figure
