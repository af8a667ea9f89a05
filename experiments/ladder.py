"""Lesson 15: what did each change of this section bring on the video's A100?"""

from matplotlib.figure import Figure

from experiments.drawing import BLUE, panels

TOKENS = 16 * 1024  # B x T of a step
STEPS = {  # the video's milliseconds, as it rounds them
    "12 · fp32": 1000,
    "13 · TF32": 333,
    "14 · bfloat16": 300,
    "15 · compile": 130,
    "16 · flash attention": 96,
    "17 · 50,304 rows": 93,
    "22 · fused AdamW": 90,
}


def draw(quick: bool) -> Figure:
    figure, (axes,) = panels(height=3.6)
    names, times = list(STEPS), list(STEPS.values())
    labels = [f"lesson {name}".replace(" · ", ":\n") for name in names]
    axes.barh(labels, times, color=BLUE, height=0.62)
    before = None
    for label, (name, ms) in zip(labels, STEPS.items(), strict=True):
        rate = f"{TOKENS / ms:.0f}k tokens/s"
        faster = "" if before is None else f"{before / ms:.2f} times as fast"
        text = f"{ms} ms: {rate}\n{faster}".strip()
        axes.text(ms + 15, label, text, va="center", fontsize=9)
        print(f"{name:<22} {ms:5} ms, {rate}{faster and f', {faster} as above'}")
        before = ms
    print(f"all together: {times[0] / times[-1]:.1f} times as fast")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="ms for a step of 16 x 1024 tokens", xlim=(0, 1620))
    axes.set_xticks(range(0, 1001, 200))
    return figure
