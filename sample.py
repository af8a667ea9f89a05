"""
Let a model go on with a text.

    python sample.py                                         # the newest checkpoint in log/
    python sample.py log/model_01200.pt "To be, or" --max_new_tokens 200
    python sample.py gpt2 --prompt_file letter.txt --temperature 0

The model gives each of the 50,257 tokens a probability of coming next; one is drawn, joins the
text, and so on. --temperature and --top_k change how: towards the likeliest, or towards the odd.
With --tokens each token stands on a line of its own, with its probability and what else it could
have been.
"""

from __future__ import annotations

import argparse
import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from support.cli import Parser, UserError, not_negative, one_line_errors, positive, seed
from support.compute import Compute, start_compute
from support.tokenizer import EOT, get_encoding, refuse_fewer_ids

if TYPE_CHECKING:
    import tiktoken

    from train_gpt2 import GPT


def read_prompt(args: argparse.Namespace) -> str:
    """The text to go on with, from the command line, a file, or standard input (-)."""
    if args.prompt_file is None:
        return args.prompt
    try:
        if args.prompt_file == "-":
            return sys.stdin.read()
        return Path(args.prompt_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompt_file {args.prompt_file}: {error}") from error


def sample(
    model: GPT, ids: list[int], generator: torch.Generator, args: argparse.Namespace
) -> Iterator[tuple[int, torch.Tensor]]:
    """The new tokens after `ids`, up to <|endoftext|>, each with the logits (vocab) that it was
    drawn from."""
    idx = torch.tensor([ids], device=generator.device)
    how = args.top_k, args.temperature, generator
    for token, logits in model.next_tokens(idx, args.max_new_tokens, *how):
        if token.item() == EOT:
            return
        yield token.item(), logits[0]


def print_text(tokens: Iterator[tuple[int, torch.Tensor]], encoding: tiktoken.Encoding) -> None:
    """The text as it comes. A character may be several tokens: it is printed when it is whole."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token, _ in tokens:
        text = decoder.decode(encoding.decode_single_token_bytes(token))
        print(text, end="", flush=True)
    print(decoder.decode(b"", final=True), flush=True)


def print_tokens(tokens: Iterator[tuple[int, torch.Tensor]], encoding: tiktoken.Encoding) -> None:
    """A line for each token: its probability, and the likeliest ones, most likely first.

    The probabilities are the model's own, before temperature and top_k.
    """

    def show(token: int, probability: float) -> str:
        return f"{encoding.decode([token])!r} {probability:.1%}"

    print(f"{'drawn':24}likeliest")
    for token, logits in tokens:
        probabilities = torch.softmax(logits.float(), dim=0)
        top = [show(*pair) for pair in zip(*(t.tolist() for t in probabilities.topk(5)[::-1]))]
        print(f"{show(token, probabilities[token].item()):24}{'  '.join(top)}", flush=True)


def run(args: argparse.Namespace) -> None:
    from train_gpt2 import load_model

    if args.model is None and not Path("log").is_dir():
        raise UserError("no log/ here: train with python train_gpt2.py, or name a MODEL (--help)")
    prompt, encoding, name = read_prompt(args), get_encoding(), args.model or "log"
    compute: Compute = start_compute(args.device, args.dtype)
    model = load_model(name).to(compute.device)
    refuse_fewer_ids(model.config.vocab_size, name)
    ids = encoding.encode_ordinary(prompt) or [EOT]  # after which a new document begins
    generator = torch.Generator(device=compute.device).manual_seed(args.seed)
    for n in range(args.num_samples):
        if n > 0:
            print("---")
        tokens = sample(model, ids, generator, args)
        with compute.autocast():
            if args.tokens:
                print_tokens(tokens, encoding)
            else:
                print(prompt, end="", flush=True)
                print_text(tokens, encoding)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="Let a model go on with a text.")
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="gpt2, gpt2-medium, gpt2-large, gpt2-xl, a Hugging Face folder, a checkpoint, or the"
        " log folder of a run: its newest checkpoint (default: log)",
    )
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        default="Hello, I'm a language model,",
        help="the text to go on with; '' starts a new document (default: %(default)s)",
    )
    prompt.add_argument("--prompt_file", help="read the prompt from this file; -: standard input")
    parser.add_argument("--max_new_tokens", type=positive, default=200, help="(default: 200)")
    parser.add_argument("--num_samples", type=positive, default=1, help="(default: 1)")
    parser.add_argument(
        "--temperature",
        type=not_negative,
        default=1.0,
        help="under 1: likelier tokens, more of the same; 0: always the likeliest (default: 1)",
    )
    parser.add_argument(
        "--top_k", type=positive, default=50, help="draw from the K likeliest (default: 50)"
    )
    parser.add_argument("--seed", type=seed, default=42, help="another seed, another text")
    parser.add_argument("--tokens", action="store_true", help="each token and its probability")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps; by default the best available")
    parser.add_argument("--dtype", help="float32 or bfloat16; by default what the device is for")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Sample from one model; argv are the command line's arguments."""
    with one_line_errors():
        run(parse_args(argv))


if __name__ == "__main__":
    main()
