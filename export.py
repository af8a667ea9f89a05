"""
A checkpoint as a folder that other people's tools read.

    python export.py log/model_01200.pt gpt2-mine     # then, for example:
    python sample.py gpt2-mine
    lm_eval --model hf --model_args pretrained=gpt2-mine --tasks hellaswag

The folder is in Hugging Face's format: model.safetensors (the weights in fp32, without the rows
that pad the vocabulary), config.json, generation_config.json, tokenizer.json,
tokenizer_config.json and a model card, README.md. transformers,
lm-evaluation-harness (pip install lm_eval accelerate) and others find all they need in it, without
a network. The way back is --init_from gpt2-mine, --model gpt2-mine.

A checkpoint of karpathy/build-nanogpt can be exported too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from support.cli import Parser, UserError, one_line_errors
from support.files import whole_folder, write_whole
from support.hugging_face import is_pretrained, write_pretrained
from support.runs import newest_checkpoint, read_checkpoint
from support.shards import add_to_manifest

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---

# {name}, a GPT-2

{n_layer} layers of width {n_embd} with {n_head} heads, {block_size} tokens of context, GPT-2's
vocabulary and tokenizer. {history}
It continues texts; it was not taught to follow instructions, and what it says may be false.

```python
from transformers import pipeline

generate = pipeline("text-generation", model="{name}")  # this folder
print(generate("Hello, I'm a language model,", max_new_tokens=50)[0]["generated_text"])
```

## Licence

The code that trained it is under the MIT licence. {data}
"""
FINEWEB_EDU = """\
The model was trained on
[FineWeb-Edu](https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu), which is under the Open
Data Commons Attribution License, ODC-By 1.0."""
OTHER_DATA = "For the data, the licence is that of the training text."


def card(name: str, checkpoint: dict[str, Any]) -> str:
    """README.md: what the model is, how to load it, and the licences."""
    settings = checkpoint.get("settings", {})  # build-nanogpt's checkpoints have none
    start = settings.get("init_from", "scratch")
    history = f"Trained for {checkpoint['step']} steps"
    history += "." if start == "scratch" else f", starting from the weights of {start}."
    is_fineweb = Path(settings.get("data_root", "")).name == "edu_fineweb10B"
    data = FINEWEB_EDU if is_fineweb else OTHER_DATA
    return CARD.format(name=name, history=history, data=data, **checkpoint["config"])


def export(source: Path, folder: Path) -> None:
    """Write the checkpoint `source`, or the newest one in a log folder, to a new `folder`.

    Raises UserError, and writes nothing, if `folder` has content, if there is no checkpoint, or
    if its vocabulary is not GPT-2's.
    """
    folder = folder.resolve()
    if folder == Path.cwd():
        raise UserError("the current folder would be replaced: name one that does not exist")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: name one that does not exist")
    if is_pretrained(source):
        raise UserError(f"{source} is a folder of Hugging Face's already: nothing to export")
    checkpoint = newest_checkpoint(str(source)) if source.is_dir() else read_checkpoint(source)
    with whole_folder(folder) as unfinished:
        write_pretrained(unfinished, checkpoint["config"], checkpoint["model"])
        for name in ("config.json", "model.safetensors"):  # the formats have no checksum
            add_to_manifest(unfinished / name)
        write_whole(unfinished / "README.md", card(folder.name, checkpoint))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="A checkpoint as a folder that other people's tools read.")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a model_STEP.pt, or the log folder of a run: its newest checkpoint",
    )
    parser.add_argument("folder", metavar="FOLDER", help="where to write; must not exist yet")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Export one checkpoint; argv are the command line's arguments."""
    with one_line_errors():
        args = parse_args(argv)
        export(Path(args.checkpoint), Path(args.folder))
        print(f"wrote {args.folder}; try: python sample.py {args.folder}")


if __name__ == "__main__":
    main()
