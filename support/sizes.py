"""The models of the papers, and a laptop's, by name: --size of train_gpt2.py."""

from typing import Any


def size(
    n_layer: int, n_head: int, n_embd: int, T: int, total_batch_size: int, max_lr: float
) -> dict[str, Any]:
    return dict(
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_embd,
        T=T,
        total_batch_size=total_batch_size,
        max_lr=max_lr,
    )


# Shapes: GPT-2 as OpenAI released it, GPT-3 from table 2.1 (Brown et al. 2020), where every other
# layer reads only what is near, which none does here. Batches and rates: GPT-3's; GPT-2's paper is
# silent on them, so its models have those of the GPT-3 that is as large. gpt3-xl has 24 heads in
# the table, which do not divide a width of 2048.
SIZES: dict[str, dict[str, Any]] = {
    #             layers, heads, width, T, tokens a step, peak rate
    "gpt2": size(12, 12, 768, 1024, 2**19, 6e-4),
    "gpt2-medium": size(24, 16, 1024, 1024, 2**19, 3e-4),
    "gpt2-large": size(36, 20, 1280, 1024, 2**19, 2.5e-4),
    "gpt2-xl": size(48, 25, 1600, 1024, 2**20, 2e-4),
    "gpt3-small": size(12, 12, 768, 2048, 2**19, 6e-4),
    "gpt3-medium": size(24, 16, 1024, 2048, 2**19, 3e-4),
    "gpt3-large": size(24, 16, 1536, 2048, 2**19, 2.5e-4),
    "gpt3-xl": size(24, 16, 2048, 2048, 2**20, 2e-4),
    # minutes on a laptop
    "small": {
        **size(4, 4, 128, 64, 256, 2e-3),
        "B": 4,
        "max_steps": 1200,
        "eval_every": 400,
        "sample_every": 400,
        "hellaswag_every": 0,
    },
}

# What --recipe sets: the paper's numbers, which are a size's and the flags' defaults, or what
# saved tokens in experiments with small models (experiments/what_helps.py).
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "fast": {"optimizer": "muon", "schedule": "linear", "min_lr": 0.0},
}
TIMES_THE_RATE = {"paper": 1, "fast": 4}


def help_text() -> str:
    """SIZES, a line each."""
    lines = [
        f"  {name:12} " + " ".join(f"{key}={value}" for key, value in fields.items())
        for name, fields in SIZES.items()
    ]
    return "\n".join(("what each --size sets, where no flag says otherwise:", *lines))
