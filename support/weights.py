"""Is this a GPT-2? What a file holds is looked at before a model is built from it."""

import re
from collections.abc import Iterator
from reprlib import repr as short
from typing import Any

import torch

from support.cli import UserError

SHAPE = {"block_size", "vocab_size", "n_layer", "n_head", "n_embd"}  # the fields of GPTConfig
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"


def refuse_other_shape(shape: dict[str, Any], where: str) -> None:
    """Raises UserError unless the fields of GPTConfig in `where` are numbers that fit together."""
    for name, value in shape.items():
        if type(value) is not int or value < 1:
            raise UserError(f"{where} has {name} {short(value)}, expected a whole number from 1 on")
    n_embd, n_head = shape["n_embd"], shape["n_head"]
    if n_embd % n_head != 0:
        raise UserError(f"{where} has n_embd {n_embd}, which its n_head {n_head} does not divide")


def tensors(shape: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor in GPT.state_dict()."""
    C = shape["n_embd"]
    layer_norm = {"weight": (C,), "bias": (C,)}
    modules = {
        "ln_1": layer_norm,
        "attn.c_attn": {"weight": (3 * C, C), "bias": (3 * C,)},
        "attn.c_proj": {"weight": (C, C), "bias": (C,)},
        "ln_2": layer_norm,
        "mlp.c_fc": {"weight": (4 * C, C), "bias": (4 * C,)},
        "mlp.c_proj": {"weight": (C, 4 * C), "bias": (C,)},
    }
    yield EMBEDDING, (shape["vocab_size"], C)
    yield "transformer.wpe.weight", (shape["block_size"], C)
    for layer in range(shape["n_layer"]):
        for module, parts in modules.items():
            for part, size in parts.items():
                yield f"transformer.h.{layer}.{module}.{part}", size
    for part, size in layer_norm.items():
        yield f"transformer.ln_f.{part}", size
    yield HEAD, (shape["vocab_size"], C)


def refuse_other_weights(weights: dict[str, Any], shape: dict[str, int], where: str) -> None:
    """Raises UserError unless they are all the weights of a GPT-2 of this shape, and finite."""
    names = set()
    for name, size in tensors(shape):  # ends at the first that is missing, however many layers
        names.add(name)
        if not is_tensor(weights.get(name), size):
            raise UserError(
                f"{where} does not hold the weights of its config: {name} is"
                f" {describe(weights.get(name))}, expected numbers of shape {list(size)}"
            )
        if not weights[name].isfinite().all():
            raise UserError(f"{where} holds a broken model: {name} is not finite")
    for name in weights.keys() - names:
        raise UserError(f"{where} is not a GPT-2: it holds {short(name)}, which GPT-2 has not")
    if not torch.equal(weights[HEAD], weights[EMBEDDING]):
        raise UserError(f"{where}: its head is not its token embedding, expected GPT-2's, which is")


def is_tensor(value: Any, size: tuple[int, ...]) -> bool:
    """Whether it is one of this shape, of floats, in memory."""
    return (
        isinstance(value, torch.Tensor)
        and (value.dtype in FLOATS and value.layout == torch.strided and value.device.type == "cpu")
        and value.shape == size
    )


def describe(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {list(value.shape)}".removeprefix("torch.")
    return f"a {type(value).__name__}"


def our_names(weights: Any) -> Any:
    """The weights without what torch.compile and DistributedDataParallel put before a name, and
    without the causal masks that older code keeps in each layer."""
    if not isinstance(weights, dict):
        return {}
    masks = (".attn.bias", ".attn.masked_bias")
    names = ((re.sub(r"^(module\.|_orig_mod\.)+", "", str(n)), w) for n, w in weights.items())
    return {name: w for name, w in names if not name.endswith(masks)}
