"""Sampling: the same loop and seed over Hugging Face's model give the same tokens."""

import torch
from transformers import GPT2LMHeadModel

from support.compute import Compute
from test_pretrained import random_gpt2
from tiny import tiny_model
from train_gpt2 import GPT, print_samples


def sample_with_hugging_face(model: GPT2LMHeadModel, idx, count, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        top, ids = torch.topk(model(idx).logits[:, -1], top_k)
        pick = torch.multinomial(top.softmax(dim=-1), 1, generator=generator)
        idx = torch.cat((idx, ids.gather(1, pick)), dim=1)
    return idx


def test_the_same_loop_over_hugging_face_s_model_gives_the_same_tokens(tmp_path):
    theirs = random_gpt2(tmp_path)
    ours = GPT.from_pretrained(str(tmp_path))
    idx = torch.randint(0, 101, (5, 8))
    expected = sample_with_hugging_face(theirs, idx, count=16, top_k=50, seed=42)
    got = ours.generate(idx, 16, generator=torch.Generator().manual_seed(42))
    assert torch.equal(got, expected)


def test_top_1_takes_the_likeliest_and_the_context_is_cut():
    model = tiny_model()
    idx = torch.randint(0, 100, (2, 30))
    out = model.generate(idx, 10, top_k=1)  # 40 tokens, block_size 32
    assert out.shape == (2, 40) and torch.equal(out[:, :30], idx)
    assert torch.equal(out, model.generate(idx, 10, temperature=1e-6))


def test_the_global_generator_is_left_alone(capsys):
    """Today nothing that trains draws from it: the losses cannot tell whether samples did."""
    model, idx = tiny_model(vocab_size=50257), torch.zeros(1, 1, dtype=torch.long)
    before = torch.get_rng_state()
    model.generate(idx, 5, generator=torch.Generator().manual_seed(1))
    print_samples(model, Compute("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    first = capsys.readouterr().out
    torch.rand(1)
    print_samples(model, Compute("cpu"))
    assert capsys.readouterr().out == first and first.count("\n> Hello") >= 3
