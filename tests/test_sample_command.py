"""sample.py: what it prints, and when; where the prompt and the model come from."""

import io
import re
import sys
from pathlib import Path

import pytest
import torch

import sample
from support.runs import write_checkpoint
from support.tokenizer import EOT, get_encoding
from tiny import logits, tiny_model
from train_gpt2 import GPT

PROMPT = "Hello, I'm a language model,"


def write_model(folder: Path, step: int = 0, seed: int = 0, **shape) -> GPT:
    """A checkpoint with all that sampling needs."""
    model = tiny_model(seed, **{"vocab_size": 50304, **shape})
    folder.mkdir(exist_ok=True)
    config = vars(model.config)
    write_checkpoint(str(folder), {"model": model.state_dict(), "config": config, "step": step})
    return model


@pytest.fixture
def model(tmp_path, monkeypatch) -> GPT:
    """log/model_00003.pt, in a folder where nothing else is."""
    monkeypatch.chdir(tmp_path)
    return write_model(Path("log"), 3)


def output(capsys, *argv: str) -> str:
    sample.main([*argv, "--device", "cpu", "--dtype", "float32"])
    return capsys.readouterr().out


def refusal(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stop:
        output(capsys, *argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_text_is_generate_s(model, capsys):
    encoding = get_encoding()
    idx = torch.tensor([encoding.encode(PROMPT)])
    expected = model.generate(idx, 20, temperature=0)[0].tolist()
    got = output(capsys, "log/model_00003.pt", "--temperature", "0", "--max_new_tokens", "20")
    assert got == encoding.decode(expected) + "\n"
    generator = torch.Generator().manual_seed(7)
    expected = model.generate(idx, 20, 5, 0.8, generator)[0].tolist()
    how = "--top_k 5 --temperature 0.8 --seed 7 --max_new_tokens 20".split()
    assert output(capsys, "log", *how) == encoding.decode(expected) + "\n"


def test_without_a_model_the_newest_checkpoint_in_log(model, capsys):
    write_model(Path("log"), 20, seed=1)
    newest = output(capsys, "log/model_00020.pt")
    assert output(capsys) == newest != output(capsys, "log/model_00003.pt")


def say(monkeypatch, tokens: list[int], heard: list[str] | None = None) -> None:
    """All models say these tokens. heard: what has left Python's buffer when each is drawn."""

    def next_tokens(self, idx, max_new_tokens, *how):
        for token in tokens:
            if heard is not None:
                heard.append(sys.stdout.buffer.getvalue().decode())
            yield torch.tensor([token]), torch.zeros(1, 50257)

    monkeypatch.setattr(GPT, "next_tokens", next_tokens)


def test_it_prints_as_it_goes(model, monkeypatch):
    heard, encoding = [], get_encoding()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    say(monkeypatch, encoding.encode("one two three"), heard)
    sample.main(["log", "zero ", "--device", "cpu"])
    assert heard == ["zero ", "zero one", "zero one two"]


def test_a_character_of_several_tokens_is_printed_whole(model, monkeypatch, capsys):
    text = "a 🙂🦜 b"
    tokens = get_encoding().encode(text)
    assert len(tokens) == 6  # three of them for one bird
    say(monkeypatch, tokens)
    assert output(capsys, "log", "") == text + "\n"
    say(monkeypatch, tokens[:-2])
    assert "\N{REPLACEMENT CHARACTER}" in output(capsys, "log", "")  # an end in the middle of one


def test_the_end_of_the_document_is_the_end(model, monkeypatch, capsys):
    say(monkeypatch, [*get_encoding().encode("The end."), EOT, 11])
    assert output(capsys, "log", "Well. ") == "Well. The end.\n"
    assert "endoftext" not in output(capsys, "log", "--tokens")


def test_several_samples_are_different_and_the_seed_repeats_them(model, capsys):
    flags = "log x --num_samples 3 --max_new_tokens 8".split()
    first = output(capsys, *flags)
    assert len(set(first.split("---\n"))) == 3
    assert output(capsys, *flags) == first != output(capsys, *flags, "--seed", "1")


def test_the_prompt_from_a_file_or_standard_input(model, monkeypatch, capsys):
    Path("letter.txt").write_text("Dear Ünal,", encoding="utf-8")
    expected = output(capsys, "log", "Dear Ünal,")
    assert expected.startswith("Dear Ünal,")
    assert output(capsys, "log", "--prompt_file", "letter.txt") == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("Dear Ünal,"))
    assert output(capsys, "log", "--prompt_file", "-") == expected


def test_an_empty_prompt_starts_a_document(model, capsys):
    expected = model.generate(torch.tensor([[EOT]]), 5, temperature=0)[0, 1:].tolist()
    got = output(capsys, "log", "", "--temperature", "0", "--max_new_tokens", "5")
    assert got == get_encoding().decode(expected) + "\n"


def test_each_token_with_its_probability_and_the_likeliest(model, capsys):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5)  # probabilities that differ
    write_checkpoint("log", {"model": model.state_dict(), "config": vars(model.config), "step": 9})
    encoding = get_encoding()
    ids = encoding.encode("x")
    head, *lines = output(capsys, "log", "x", "--tokens", "--max_new_tokens", "3").splitlines()
    assert head.split() == ["drawn", "likeliest"] and len(lines) == 3
    for line in lines:
        probabilities = logits(model, torch.tensor([ids]))[0, -1, :50257].softmax(0)
        top, likeliest = probabilities.topk(5)
        shown = [f"{encoding.decode([i])!r} {p:.1%}" for i, p in zip(likeliest.tolist(), top)]
        assert line.endswith("  ".join(shown))
        drawn = [
            i
            for i in range(50257)
            if line.startswith(f"{f'{encoding.decode([i])!r} {probabilities[i]:.1%}':24}")
        ]
        ids.append(drawn[0])


@pytest.mark.parametrize(
    "argv, words",
    [
        ("log --temperature -1", "--temperature: expected a number of 0 or more, found '-1'"),
        ("log --temperature inf", "--temperature: expected a number of 0 or more, found 'inf'"),
        (f"log --seed {10**30}", "--seed: expected a whole number of 0 or more, of 18 digits"),
        ("log --top_k 0", "--top_k: expected a whole number of 1 or more"),
        ("log --temprature 1", "unknown flag --temprature: did you mean --temperature?"),
        ("log --prompt_file none.txt", "--prompt_file none.txt: .*No such file"),
        ("log/model_7.pt", "log/model_7.pt does not exist"),
        ("gpt5", "unknown model 'gpt5'"),
        ("small", "small has a vocabulary of 100, expected GPT-2's 50257"),
        ("empty", "found no checkpoint in empty, expected a model_STEP.pt"),
        ("log hello --prompt_file x", "--prompt_file: not allowed with argument PROMPT"),
    ],
)
def test_a_mistake_is_one_line(model, capsys, argv, words):
    write_model(Path("small"), vocab_size=100)
    Path("empty").mkdir()
    error = refusal(capsys, *argv.split())
    assert error.count("\n") == 1
    assert re.search(words, error)


def test_without_a_log_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "no log/ here: train with python train_gpt2.py, or name a" in refusal(capsys)
