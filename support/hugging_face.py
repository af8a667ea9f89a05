"""GPT-2's weights in Hugging Face's layout: read by name or from a folder, and written."""

import json
import os
import shutil
import warnings
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch

from support.cli import UserError
from support.shards import MANIFEST, is_intact, read_manifest
from support.tokenizer import EOT, N_VOCAB, read_vocabulary, refuse_fewer_ids
from support.weights import EMBEDDING, HEAD, our_names, refuse_other_shape, refuse_other_weights

PRETRAINED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")  # 124M, 355M, 774M, 1558M
FIELDS = {  # of GPTConfig: of config.json
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}
# By which names config.json may say what our model computes; where it says nothing, the first.
GPT2 = {
    "model_type": ("gpt2",),
    "activation_function": (  # names of the same function, GELU by its tanh approximation
        "gelu_new",
        "gelu_pytorch_tanh",
        "gelu_python_tanh",
        "gelu_fast",
        "gelu_accurate",
    ),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
WEIGHTS = ("model.safetensors", "model-*.safetensors", "pytorch_model*.bin")  # the first there is
PREFIXES = ("transformer.", "lm_head.")
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def swap_layout(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Theirs -> ours, or ours -> theirs: the names are the same, but OpenAI's code and theirs
    multiply by the blocks' matrices from the other side, so they keep them transposed."""
    return {n: w.t() if n.endswith(CONV1D) and is_matrix(w) else w for n, w in weights.items()}


def is_matrix(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 2


def is_offline() -> bool:
    """Whether the hub cannot be reached; its own client goes on trying for half a minute."""
    import requests
    from huggingface_hub.constants import ENDPOINT

    try:
        requests.head(ENDPOINT, timeout=5)
    except requests.RequestException:
        return True
    return False


def is_pretrained(folder: Path) -> bool:
    """Whether save_pretrained seems to have written it."""
    names = ("config.json", *WEIGHTS)
    return any(any(folder.glob(name)) for name in names)


def find_folder(name_or_path: str) -> Path:
    """A folder of the user's, or the hub's copy of one of OpenAI's models, downloaded if need be.

    Raises UserError for an unknown name, or a download that fails.
    """
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    if name_or_path not in PRETRAINED:
        raise UserError(
            f"unknown model {name_or_path!r}: expected one of {', '.join(PRETRAINED)}"
            " or a folder written by Hugging Face's save_pretrained"
        )
    from huggingface_hub import hf_hub_download

    try:
        get = partial(hf_hub_download, name_or_path, local_files_only=is_offline())
        return [Path(get(file)).parent for file in ("config.json", "model.safetensors")][0]
    except Exception as error:  # whatever the hub's client makes of a network
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load {name_or_path}: {reason}") from error


def read_config(path: Path) -> dict[str, int]:
    """The fields of GPTConfig from a config.json.

    Raises UserError if there is none, or if it is that of a model which computes something else.
    """
    if not path.is_file():
        raise UserError(f"found no {path}: expected a folder written by save_pretrained")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {path} ({type(error).__name__}): expected the JSON of a GPT-2, as"
            " save_pretrained writes it"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {short(found)}, expected the JSON of a GPT-2")
    shape = {ours: found.get(theirs) for ours, theirs in FIELDS.items()}
    refuse_other_shape(shape, str(path))
    for name, allowed in {**GPT2, "n_inner": (None, 4 * shape["n_embd"])}.items():
        value = found.get(name, allowed[0])
        if value not in allowed:
            expected = " or ".join(map(str, allowed))
            raise UserError(f"{path} has {name} {short(value)}, expected GPT-2's {expected}")
    return shape


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All the tensors in its files. No code of the files runs.

    Raises UserError if there are none, or if a file is damaged.
    """
    from safetensors.torch import load_file

    found = ([p for p in sorted(folder.glob(pattern)) if p.is_file()] for pattern in WEIGHTS)
    files = next(filter(None, found), [])
    if not files:
        raise UserError(f"{folder} has no weights: expected a model.safetensors beside config.json")
    weights = {}
    for path in files:
        try:
            if path.suffix == ".safetensors":
                weights.update(load_file(path))
            else:
                weights.update(load_plainly(path))
        except Exception as error:  # whatever safetensors or torch makes of a damaged file
            raise UserError(
                f"{path} is damaged, or holds more than tensors: copy it again"
            ) from error
    return weights


def load_plainly(path: Path) -> Any:
    """What torch.save wrote, of tensors and plain values only, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it was pickled; what is wrong is an exception
        return torch.load(path, map_location="cpu", weights_only=True)


def read_pretrained(name_or_path: str) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """The fields of GPTConfig, and the weights in our layout, on the CPU.

    Raises UserError for an unknown name, a download that fails, or what is not GPT-2's: a config
    that says so, weights of other names or shapes.
    """
    folder = find_folder(name_or_path)
    sums = read_manifest(folder)  # where export.py wrote it
    changed = [name for name in sums if not is_intact(folder / name, sums[name])]
    if changed:
        raise UserError(
            f"{', '.join(changed)} in {folder}: not what export.py wrote (see {MANIFEST});"
            f" export it again, or delete {MANIFEST} if the change is meant"
        )
    shape, weights = read_config(folder / "config.json"), our_names(read_weights(folder))
    # The base model, which OpenAI's are saved as, has neither prefix nor head.
    weights = {n if n.startswith(PREFIXES) else f"transformer.{n}": w for n, w in weights.items()}
    weights.setdefault(HEAD, weights.get(EMBEDDING))
    weights = swap_layout(weights)
    refuse_other_weights(weights, shape, name_or_path)
    return shape, weights


def write_pretrained(folder: Path, shape: dict[str, int], weights: dict[str, torch.Tensor]) -> None:
    """Write a model as read_pretrained returns it, and the tokenizer, for other people's tools.

    Of the vocabulary only the tokenizer's 50257 rows go there: some tools refuse the padding.

    Raises UserError where there are fewer rows, or without OpenAI's files of the vocabulary.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    refuse_fewer_ids(shape["vocab_size"], "the model")
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
