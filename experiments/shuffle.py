"""Lesson 61: text ordered by topic: does the loss show a period, and does shuffling help?"""

import random
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments import judge
from experiments.drawing import panels
from experiments.small import TEXT
from support.tokenizer import EOT, get_encoding

SPEAKERS, EPOCHS, TOKENS_A_STEP = 16, 4, 512
FLAGS = f"--max_lr 1e-3 --total_batch_size {TOKENS_A_STEP} --B 8 --val_tokens 12000 --device cpu"
FLAGS += " --n_layer 2 --n_head 2 --n_embd 64 --eval_every 50 --save_every 200"


def write_speeches(folder: Path, shuffled: bool = False) -> int:
    """Two shards of speeches of input.txt, each a document, those of a speaker together, or in
    one other order; every tenth is for validation. Returns the tokens to train on."""
    speeches = [s for s in Path(TEXT).read_text(encoding="utf-8").split("\n\n") if ":\n" in s]
    length = Counter()
    for speech in speeches:
        length[speech.partition("\n")[0]] += len(speech)
    who = [name for name, _ in length.most_common(SPEAKERS)]
    ordered = [s for name in who for s in speeches if s.startswith(name + "\n")]
    encode = get_encoding().encode_ordinary
    documents = [np.array([EOT, *encode(speech)], dtype=np.uint16) for speech in ordered]
    train = [d for i, d in enumerate(documents) if i % 10]
    if shuffled:
        random.Random(0).shuffle(train)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "speeches_val_000000.npy", np.concatenate(documents[::10]))
    np.save(folder / "speeches_train_000001.npy", np.concatenate(train))
    return sum(map(len, train))


def draw(quick: bool) -> Figure:
    folder, mixed = judge.RUNS / "speeches", judge.RUNS / "speeches_shuffled"
    write_speeches(mixed, shuffled=True)
    epoch = write_speeches(folder) / TOKENS_A_STEP
    steps = round(EPOCHS * epoch)
    flags = [*FLAGS.split(), "--data_root", folder, "--max_steps", steps]
    variants = {
        "in order": [*flags, "--shuffle", 0],
        "shuffled once": [*flags, "--data_root", mixed, "--shuffle", 0],
        "shuffled each epoch": [*flags, "--shuffle", 1],
    }
    logs = judge.compare("shuffle", variants, (1, 2, 3), quick)
    found = judge.curves(logs)
    judge.report(found, "in order")
    figure, (left, right) = panels(2)
    for variant, (log, *_) in logs.items():
        steps, losses = judge.read(log, "train").T
        smooth = np.convolve(losses, np.ones(10) / 10, "valid") if not quick else losses
        left.plot(steps[-len(smooth) :] / epoch, smooth, label=variant, linewidth=1)
        n = min(round(epoch), len(losses) // 2)
        alike = np.corrcoef(losses[-n:], losses[-2 * n : -n])[0, 1]
        print(f"{variant}: the losses of the last two epochs correlate by {alike:.2f}")
    left.set(xlabel="epoch", ylabel="training loss (nats), mean of 10 steps", ylim=(4.2, 7))
    left.legend()
    judge.plot(right, found, TOKENS_A_STEP)
    right.set(ylim=(5, 7))
    return figure
