"""
HellaSwag: does a model know how an everyday story goes on? (Zellers et al. 2019)

    python hellaswag.py                                # OpenAI's GPT-2, all 10,042 examples
    python hellaswag.py --model log/model_STEP.pt      # a checkpoint of train_gpt2.py

One example, its endings numbered from 0; number 3 is true:

    A man is sitting on a roof. he
      0  is using wrap to wrap a pair of skis.
      1  is ripping level tiles off.
      2  is holding a rubik's cube.
      3  starts pulling up roofing on a roof.

Language models wrote the false endings, and only those that other models took for true were
kept. Humans find the true one in 95% of the examples, guessing in 25%. Small models do not
understand "answer A, B, C or D", so each ending is scored as a continuation of the context:
its tokens' loss, summed (acc) or averaged over the tokens (acc_norm; the sum favours short
endings). The lowest loss is the model's answer. Scored this way:

    | model                | acc    | acc_norm |
    | -------------------- | ------ | -------- |
    | GPT-2 124M, OpenAI's | 0.2859 | 0.2955   |
    | GPT-2 XL, 1558M      | 0.3842 | 0.4893   |

An example: line of the file -> token ids -> losses of four endings -> answer.

lm-evaluation-harness (lm_eval) asks the same way, but cleans the text, puts the activity's name in
front, and divides an ending's loss by its characters for acc_norm: its numbers are not comparable
with these. On the same text its acc is equal, its acc_norm is not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from support.cli import Parser, UserError, one_line_errors, positive
from support.compute import Compute, start_compute
from support.files import make_folder, write_whole
from support.tokenizer import N_VOCAB, get_encoding, refuse_fewer_ids

if TYPE_CHECKING:
    import tiktoken

    from train_gpt2 import GPT

# ---------- The data --------------------------------------------------------------------

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
NUM_EXAMPLES = 10042  # of the validation set; the test set's labels are not public


def download(folder: str | Path = "hellaswag") -> Path:
    """The path of the validation set in `folder`, downloaded (12 MB) if it is not there yet.

    Raises UserError if there is no network, or if what arrives is not the complete set.
    """
    from support.network import fetch

    path = Path(folder) / "hellaswag_val.jsonl"
    if path.exists():
        return path
    hint = f"try again later, or put a copy of it at {path}"
    content = fetch(URL, hint)
    num_lines = len(content.splitlines())
    if num_lines != NUM_EXAMPLES:
        raise UserError(f"{URL} sent {num_lines} lines, expected {NUM_EXAMPLES}: {hint}")
    make_folder(path.parent)
    write_whole(path, content)
    return path


def load_examples(path: str | Path) -> list[dict[str, Any]]:
    """One example a line: ctx (a text), endings (four texts), label (the true one, 0 to 3).

    Raises UserError, with the number of the line, for a file that is cut or has other fields.
    """
    hint = "give a whole one with --data FILE, or delete this one and leave --data out"
    check = "check --data, or leave it out to download one"
    if Path(path).exists() and not Path(path).is_file():
        raise UserError(f"cannot read {path} (a folder or a pipe, not a file): {check}")
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): {check}") from error
    if not lines:
        raise UserError(f"{path} is empty, expected one example a line: {hint}")
    examples = []
    for number, line in enumerate(lines, start=1):
        try:
            example = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is cut or is not JSON: {hint}") from error
        if not is_example(example):
            raise UserError(
                f"{path}, line {number} lacks a ctx, four endings or a label of 0 to 3: {hint}"
            )
        examples.append(example)
    return examples


def is_example(example: Any) -> bool:
    """Whether it has the three fields that are used here, with values that make sense."""
    if not isinstance(example, dict):
        return False
    context, endings = example.get("ctx"), example.get("endings")
    return (
        isinstance(context, str)
        and context != ""
        and isinstance(endings, list)
        and [type(ending) for ending in endings] == [str] * 4
        and type(example.get("label")) is int
        and 0 <= example["label"] <= 3
    )


# ---------- Text -> tokens --------------------------------------------------------------


def render(
    example: dict[str, Any], encoding: tiktoken.Encoding
) -> tuple[list[int], list[list[int]], int]:
    """An example -> the ids of its context, the ids of each of its four endings, its label."""
    context = encoding.encode_ordinary(example["ctx"])
    # in GPT-2 a word includes the space before it, so each ending starts with one
    endings = [encoding.encode_ordinary(" " + ending) for ending in example["endings"]]
    return context, endings, example["label"]


def fit(
    context: list[int], endings: list[list[int]], block_size: int
) -> tuple[list[int], list[list[int]]]:
    """Cut the context from the left so that it fits block_size with any of the endings.

    The last token of an ending is predicted but never read, so block_size + 1 tokens fit. At
    least one is the context's: for tiny models the endings are cut too, from the right.
    """
    endings = [ending[:block_size] for ending in endings]
    room = block_size + 1 - max(len(ending) for ending in endings)
    return context[-room:], endings


# ---------- Tokens -> losses ------------------------------------------------------------

Question = tuple[list[int], list[list[int]]]  # a context and its four endings, as token ids

CPU_TOKENS, GPU_TOKENS = 2048, 32768  # of one forward pass, padding included
LOGIT_ROWS = 256  # positions whose logits exist at a time: 256 x 50257 in fp32 are 51 MB


class Row(NamedTuple):
    """One row of the model's input: a context once, then endings one after another."""

    inputs: list[tuple[int, int, int]]  # token, position, part: 0 the context, 1 to 4 the endings
    predictions: list[tuple[int, int, int]]  # index in inputs, the next token, its ending


def pack(context: list[int], endings: list[list[int]], first: int, block_size: int) -> list[Row]:
    """A question as one row, or as several if block_size is too short for all endings at once.

    The endings are numbered `first` to first + 3. Each ending's positions continue the context's,
    as if no other ending were there.
    """
    shared = [(token, position, 0) for position, token in enumerate(context)]
    rows = [Row(shared.copy(), [])]
    for n, ending in enumerate(endings):
        read = ending[:-1]  # the last token is predicted, nothing is predicted from it
        if len(rows[-1].inputs) + len(read) > block_size:
            rows.append(Row(shared.copy(), []))
        inputs, predictions = rows[-1]
        sources = [len(context) - 1, *range(len(inputs), len(inputs) + len(read))]
        inputs += [(token, len(context) + i, n + 1) for i, token in enumerate(read)]
        predictions += [(source, token, first + n) for source, token in zip(sources, ending)]
    return rows


def batches(rows: list[Row], num_tokens: int) -> list[list[Row]]:
    """Rows of similar length together, at most num_tokens with the padding; longest first."""
    rows = sorted(rows, key=lambda row: len(row.inputs), reverse=True)
    result = []
    while rows:
        B = max(1, num_tokens // len(rows[0].inputs))
        result.append(rows[:B])
        rows = rows[B:]
    return result


def collate(rows: list[Row], device: str) -> tuple[torch.Tensor, ...]:
    """Rows -> idx, pos (B, T), mask (B, 1, T, T) for model.hidden; and sources, targets, owners.

    The last three are (P): for each of the P predictions, where in the B x T hidden states it is
    made, the next token, and the number of the ending it belongs to.
    """
    columns = [torch.tensor(row.inputs) for row in rows]
    inputs = pad_sequence(columns, batch_first=True, padding_value=-1).to(device)
    idx, pos, part = inputs.unbind(2)  # (B, T) each, -1 where padded
    T = idx.size(1)
    causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    same_part = part[:, :, None] == part[:, None, :]  # (B, T, T); padding, too, sees itself
    mask = causal & (same_part | (part == 0)[:, None, :])
    predictions = [
        (b * T + source, target, owner)
        for b, row in enumerate(rows)
        for source, target, owner in row.predictions
    ]
    sources, targets, owners = torch.tensor(predictions, device=device).unbind(1)
    return idx.clamp(min=0), pos.clamp(min=0), mask[:, None], sources, targets, owners


def score(
    model: GPT,
    questions: list[Question],
    device: str,
    progress: Callable[[list], Iterable] = iter,
) -> torch.Tensor:
    """The summed loss of each ending given its context, (len(questions), 4), fp32, on the CPU.

    Many questions are one forward pass. `progress` wraps the loop over the batches.
    """
    block_size, n_layer = model.config.block_size, model.config.n_layer
    rows = [row for i, q in enumerate(questions) for row in pack(*q, 4 * i, block_size)]
    sums = torch.zeros(4 * len(questions), device=device)
    for batch in progress(batches(rows, CPU_TOKENS if device == "cpu" else GPU_TOKENS)):
        idx, pos, mask, *predictions = collate(batch, device)
        attend = partial(F.scaled_dot_product_attention, attn_mask=mask)
        x = model.hidden(idx, pos, [attend] * n_layer).flatten(0, 1)  # (B * T, n_embd)
        for sources, targets, owners in zip(*(p.split(LOGIT_ROWS) for p in predictions)):
            logits = model.lm_head(x[sources]).float()  # (LOGIT_ROWS, vocab)
            losses = F.cross_entropy(logits, targets, reduction="none")
            sums.index_add_(0, owners, losses)
    return sums.view(-1, 4).cpu()


# ---------- Losses -> accuracy ----------------------------------------------------------


@torch.no_grad()
def evaluate(
    model: GPT,
    examples: list[dict[str, Any]],
    encoding: tiktoken.Encoding,
    device: str,
    progress: Callable[[list], Iterable] = iter,
) -> tuple[int, int]:
    """How many examples the model gets right by the endings' summed loss, and by their mean.

    Under autocast the matmuls are in its dtype, the losses always in fp32. With several
    processes each takes examples[rank::world_size], and their counts add up. Raises UserError if a
    loss is not finite.
    """
    rendered = [render(example, encoding) for example in examples]
    questions = [fit(context, endings, model.config.block_size) for context, endings, _ in rendered]
    sums = score(model, questions, device, progress)
    if not sums.isfinite().all():
        raise UserError("the model's losses are not finite: its weights are broken")
    num_correct = num_correct_norm = 0
    for losses, (_, endings), (_, _, label) in zip(sums.tolist(), questions, rendered):
        means = [loss / len(ending) for loss, ending in zip(losses, endings)]
        num_correct += losses.index(min(losses)) == label
        num_correct_norm += means.index(min(means)) == label
    return num_correct, num_correct_norm


def share(compute: Compute, vocab_size: int = N_VOCAB) -> list[dict[str, Any]] | None:
    """This process's part of the examples, for an evaluation during training.

    None for all processes, and one printed line, if any of them cannot have its part: the
    evaluation ends in a sum over all, which hangs unless all enter it. One process per machine
    downloads. A part may be empty.
    """
    path, problem = Path("hellaswag") / "hellaswag_val.jsonl", ""
    try:
        refuse_fewer_ids(vocab_size, "the model")
        if compute.local_rank == 0:
            download(path.parent)
        get_encoding()
    except UserError as error:
        problem = str(error)
    compute.barrier()  # the download is complete
    if not problem and not path.exists():
        problem = f"no {path} on the machine of rank {compute.rank}"
    failed = compute.gather(int(problem != ""))
    if 1 in failed:
        if compute.rank == failed.index(1):
            print(f"HellaSwag is skipped: {problem}", flush=True)
        return None
    return load_examples(path)[compute.rank :: compute.world_size]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="HellaSwag accuracy of a model, completion style")
    parser.add_argument(
        "--model",
        default="gpt2",
        help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, a Hugging Face folder, a checkpoint, or the"
        " log folder of a run: its newest checkpoint",
    )
    parser.add_argument("--data", help="a hellaswag_val.jsonl; downloaded if not given")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps; by default the best available")
    parser.add_argument("--dtype", help="float32 or bfloat16; by default what the device is for")
    parser.add_argument("--limit", type=positive, help="only the first LIMIT examples")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Score one model; argv are the command line's arguments."""
    with one_line_errors():
        args = parse_args(argv)
        examples = load_examples(args.data or download())[: args.limit]

        from tqdm import tqdm

        from train_gpt2 import load_model

        compute = start_compute(args.device, args.dtype)
        model = load_model(args.model).to(compute.device).eval()
        refuse_fewer_ids(model.config.vocab_size, args.model)
        with compute.autocast():
            correct = evaluate(model, examples, get_encoding(), compute.device, tqdm)
        for name, num in zip(("acc", "acc_norm"), correct):
            print(f"{name}: {num}/{len(examples)}={num / len(examples):.4f}")


if __name__ == "__main__":
    main()
