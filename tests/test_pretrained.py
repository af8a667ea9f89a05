"""Weights that Hugging Face wrote, in our model."""

import json

import pytest
import requests
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from support.cli import UserError
from tiny import logits
from train_gpt2 import GPT

SHAPES = [(2, 2, 32), (3, 4, 64), (1, 3, 48)]  # layers, heads, width


def random_gpt2(folder, n_layer=2, n_head=2, n_embd=32) -> GPT2LMHeadModel:
    """A GPT-2 with large random weights, saved as Hugging Face saves them."""
    torch.manual_seed(n_layer)
    config = GPT2Config(
        vocab_size=101, n_positions=24, n_layer=n_layer, n_head=n_head, n_embd=n_embd
    )
    model = GPT2LMHeadModel(config).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_hugging_face_s(tmp_path, shape):
    theirs = random_gpt2(tmp_path, *shape)
    ours = GPT.from_pretrained(str(tmp_path))
    idx = torch.randint(0, 101, (2, 24))
    with torch.no_grad():
        expected = theirs(idx).logits
        largest = (logits(ours, idx) - expected).abs().max() / expected.std()
    print(f"largest difference of the logits: {largest:.1e} of their std")
    assert largest < 1e-5


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown model 'gpt5': expected one of gpt2, .*gpt2-xl"):
        GPT.from_pretrained("gpt5")


def test_without_network_there_is_one_line_at_once(monkeypatch):
    def refused(*_, **__):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", refused)
    with pytest.raises(UserError, match="^cannot load gpt2: [^\n]*$"):
        GPT.from_pretrained("gpt2")


def test_weights_with_other_names_are_refused(tmp_path):
    random_gpt2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    with pytest.raises(UserError, match=r"transformer\.h\.2\.ln_1\.weight is missing, expected"):
        GPT.from_pretrained(str(tmp_path))


def test_weights_with_other_shapes_are_refused(tmp_path):
    random_gpt2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_positions": 30}))
    with pytest.raises(UserError, match=r"^[^\n]*wpe.* \[24, 32\], expected .* \[30, 32\]$"):
        GPT.from_pretrained(str(tmp_path))


def test_an_mlp_of_another_width_is_refused(tmp_path):
    config = GPT2Config(vocab_size=101, n_positions=24, n_layer=1, n_head=2, n_embd=32, n_inner=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has n_inner 64, expected GPT-2's None or 128"):
        GPT.from_pretrained(str(tmp_path))
