"""A model with fewer ids than GPT-2's tokenizer: one line, or a skipped sample."""

import shutil

import pytest

import hellaswag
import sample
from test_sample_command import write_model
from tiny import ROOT, TINY_FLAGS, error_of, losses, run, write_shards

EIGHT = ROOT / "tests" / "data" / "hellaswag_8.jsonl"


@pytest.mark.parametrize(
    "script, flags",
    [(sample, "{log} --device cpu"), (hellaswag, f"--model {{log}} --device cpu --data {EIGHT}")],
)
def test_the_other_commands_refuse_it(tmp_path, script, flags, capsys):
    write_model(tmp_path, vocab_size=100)
    with pytest.raises(SystemExit) as stop:
        script.main(flags.format(log=tmp_path).split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"{tmp_path} has a vocabulary of 100, expected GPT-2's 50257 or more" in error


def test_in_training_samples_and_hellaswag_are_skipped_in_one_line_each(tmp_path, monkeypatch):
    write_shards(tmp_path, 500)
    (tmp_path / "hellaswag").mkdir()
    shutil.copy(EIGHT, tmp_path / "hellaswag" / "hellaswag_val.jsonl")
    flags = f"--T 16 --total_batch_size 64 --eval_every 0 --max_steps 2 --data_root {tmp_path}"
    flags += " --vocab_size 100 --sample_every 2 --hellaswag_every 1"
    result = run(*TINY_FLAGS, *flags.split(), cwd=tmp_path)
    assert len(losses(result)) == 2
    said = [line for line in result.stdout.splitlines() if "has a vocabulary of 100" in line]
    assert [line.split(":")[0] for line in said] == ["HellaSwag is skipped"] + 2 * [
        "samples skipped"
    ]


def test_a_text_asks_for_a_larger_vocabulary(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("To be, or not to be: that is the question. " * 40)
    flags = f"--data_root {tmp_path}/a.txt --vocab_size 100 --T 16 --total_batch_size 64"
    error = error_of(capsys, *TINY_FLAGS, *flags.split(), "--log_dir", str(tmp_path / "log"))
    assert "expected ids under 100: train with --vocab_size 50304" in error
