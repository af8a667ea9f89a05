"""GPT-2's weights as Hugging Face keeps them: OpenAI's by name, or those of a local folder."""

import os
from typing import Any

import torch

from support.cli import UserError

PRETRAINED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # 124M, 355M, 774M, 1558M


def is_offline() -> bool:
    """Whether the hub cannot be reached; its own client goes on trying for half a minute."""
    import requests
    from huggingface_hub.constants import ENDPOINT

    try:
        requests.head(ENDPOINT, timeout=5)
    except requests.RequestException:
        return True
    return False


def read_pretrained(name_or_path: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """The configuration and the weights by name, fp32, on the CPU.

    Raises UserError for an unknown name, a download that fails, or weights that are not
    GPT-2's by name or shape.
    """
    from transformers import GPT2LMHeadModel

    is_folder = os.path.isdir(name_or_path)
    if name_or_path not in PRETRAINED and not is_folder:
        raise UserError(
            f"unknown model {name_or_path!r}: expected one of {', '.join(PRETRAINED)}"
            " or a folder written by Hugging Face's save_pretrained"
        )
    try:
        model, report = GPT2LMHeadModel.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            local_files_only=is_folder or is_offline(),
            output_loading_info=True,
        )
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot load {name_or_path}: {reason}") from error
    for name in (*report["missing_keys"], *report["unexpected_keys"]):
        raise UserError(f"{name_or_path} is no GPT-2: {name} is missing, or is not of GPT-2")
    return model.config, model.state_dict()
