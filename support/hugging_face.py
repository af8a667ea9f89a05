"""GPT-2's weights, by name or from a folder: from Hugging Face's layout to ours."""

import os

import torch

from support.cli import UserError

PRETRAINED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # 124M, 355M, 774M, 1558M
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def swap_layout(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Theirs -> ours, or ours -> theirs: the names are the same, but OpenAI's code and theirs
    multiply by the blocks' matrices from the other side, so they keep them transposed."""
    return {name: w.t() if name.endswith(CONV1D) else w for name, w in weights.items()}


def is_offline() -> bool:
    """Whether the hub cannot be reached; its own client goes on trying for half a minute."""
    import requests
    from huggingface_hub.constants import ENDPOINT

    try:
        requests.head(ENDPOINT, timeout=5)
    except requests.RequestException:
        return True
    return False


def read_pretrained(name_or_path: str) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """The fields of GPTConfig, and the weights in our layout, fp32, on the CPU.

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
    names = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if names:
        raise UserError(f"{name_or_path} is not a GPT-2: {names[0]} is missing, or is not GPT-2's")
    c = model.config
    if c.n_inner not in (None, 4 * c.n_embd):
        raise UserError(f"{name_or_path} has n_inner {c.n_inner}, expected {4 * c.n_embd}")
    shape = dict(
        block_size=c.n_positions,
        vocab_size=c.vocab_size,
        n_layer=c.n_layer,
        n_head=c.n_head,
        n_embd=c.n_embd,
    )
    return shape, swap_layout(model.state_dict())
