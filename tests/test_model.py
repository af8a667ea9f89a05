"""The architecture against Hugging Face's, and what makes it a GPT."""
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from train_gpt2 import GPT, GPTConfig

CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def test_names_and_shapes_are_hugging_face_s():
    with torch.device("meta"):  # shapes without memory
        ours = GPT(GPTConfig()).state_dict()
        theirs = GPT2LMHeadModel(GPT2Config()).state_dict()
    assert list(ours) == list(theirs)
    for name, weight in ours.items():
        shape = theirs[name].shape
        assert weight.shape == (shape[::-1] if name.endswith(CONV1D) else shape), name


def test_number_of_parameters():
    with torch.device("meta"):
        model = GPT(GPTConfig())
    assert sum(p.numel() for p in model.parameters()) == 163_037_184
