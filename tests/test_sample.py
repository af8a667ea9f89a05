"""Sampling: the same loop and seed over Hugging Face's model give the same tokens."""

import torch
from transformers import GPT2LMHeadModel

import train_gpt2
from support.cli import UserError
from support.compute import Compute
from test_pretrained import random_gpt2
from tiny import logits, tiny_model
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


def test_past_block_size_the_last_tokens_are_read():
    model = tiny_model()
    out = model.generate(torch.randint(0, 100, (2, 40)), 1, top_k=1)
    likeliest = logits(model, out[:, 8:40])[:, -1].argmax(dim=-1)  # block_size 32
    assert torch.equal(out[:, -1], likeliest)


def test_sampling_keeps_nothing_for_a_backward_pass():
    model, kept = tiny_model(), []
    model.lm_head.register_forward_hook(lambda _, __, out: kept.append(out.requires_grad))
    model.generate(torch.zeros(1, 1, dtype=torch.long), 2)
    assert kept == [False, False]


def test_samples_are_32_tokens_and_the_same_each_time(capsys):
    model, rows = tiny_model(vocab_size=50304), []
    model.lm_head.register_forward_hook(lambda *_: rows.append(1))
    print_samples(model, Compute("cpu"))
    once = capsys.readouterr().out
    print_samples(model, Compute("cpu"))
    assert capsys.readouterr().out == once
    assert len(set(once.split("> Hello")[1:])) == 4
    assert len(rows) == 2 * (32 - 8)  # tokens beside "Hello, I'm a language model,"
    print_samples(model, Compute("cpu", rank=1, world_size=2))
    assert capsys.readouterr().out == ""


def test_without_a_tokenizer_samples_are_skipped_with_one_line(monkeypatch, capsys):
    def missing():
        raise UserError("no vocabulary")

    monkeypatch.setattr(train_gpt2, "get_encoding", missing)
    print_samples(tiny_model(), Compute("cpu"))
    assert capsys.readouterr().out == "samples skipped: no vocabulary\n"
