"""GPT-2's weights in Hugging Face's layout: read by name or from a folder, and written."""

import os
import shutil
from pathlib import Path

import torch

from support.cli import UserError
from support.tokenizer import EOT, N_VOCAB, read_vocabulary

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


def write_pretrained(folder: Path, shape: dict[str, int], weights: dict[str, torch.Tensor]) -> None:
    """Write a model as read_pretrained returns it, and the tokenizer, for other people's tools.

    Of the vocabulary only the tokenizer's 50257 rows go there: some tools refuse the padding.

    Raises UserError where there are fewer rows, or without OpenAI's files of the vocabulary.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    if shape["vocab_size"] < N_VOCAB:
        raise UserError(
            f"the model's vocabulary has {shape['vocab_size']} rows, expected {N_VOCAB} or more:"
            " train one with --vocab_size 50304"
        )
    vocabulary, merges = read_vocabulary()
    block_size = shape["block_size"]
    config = GPT2Config(
        vocab_size=N_VOCAB,
        n_positions=block_size,
        n_ctx=block_size,  # the same by its old name, which llama.cpp's converter asks for
        n_layer=shape["n_layer"],
        n_head=shape["n_head"],
        n_embd=shape["n_embd"],
        activation_function="gelu_new",  # the tanh approximation
        resid_pdrop=0.0,  # theirs are 0.1, which would matter to whoever finetunes the model
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOT,
        eos_token_id=EOT,
    )
    model = GPT2LMHeadModel(config)
    rows = {"transformer.wte.weight", "lm_head.weight"}
    cut = {name: w[:N_VOCAB] if name in rows else w for name, w in weights.items()}
    model.load_state_dict(swap_layout(cut))
    model.save_pretrained(folder)
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # else only its owner's
    tokenizer = GPT2Tokenizer(vocabulary, merges, model_max_length=block_size)
    tokenizer.save_pretrained(folder)
