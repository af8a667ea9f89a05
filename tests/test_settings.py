"""The command line."""

from dataclasses import fields

import pytest

from support.cli import TEXT
from support.compute import Compute
from support.plan import settle
from tiny import TINY_FLAGS, error_of, losses, run
from train_gpt2 import Settings, main


def test_every_field_is_a_flag_with_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for f in fields(Settings):
        assert f"--{f.name} X" in shown
    assert len(fields(Settings)) <= 32


def test_an_unknown_flag_names_the_nearest(capsys):
    error = error_of(capsys, "--max_step", "5")
    assert "unknown flag --max_step: did you mean --max_steps?" in error


def test_a_value_of_the_wrong_kind_is_refused(capsys):
    assert "--B: invalid int value: 'many'" in error_of(capsys, "--B", "many")


def test_a_width_that_the_heads_do_not_divide_is_refused(capsys):
    error = error_of(capsys, "--n_embd", "100", "--n_head", "3", "--device", "cpu")
    assert "--n_embd 100 is not divisible by --n_head 3" in error


@pytest.mark.parametrize(
    "flag, value, expected",
    [
        ("B", "0", "1 to 10**12"),
        ("T", "0", "1 to 10**12"),
        ("total_batch_size", "-512", "1 to 10**12"),
        ("n_layer", "0", "1 to 10**12"),
        ("n_head", "0", "1 to 10**12"),
        ("n_embd", "0", "1 to 10**12"),
        ("vocab_size", "0", "1 to 10**12"),
        ("val_tokens", "0", "1 to 10**12"),
        ("max_steps", "-5", "0 to 10**12"),
        ("warmup_steps", "-1", "0 to 10**12"),
        ("weight_decay", "-0.1", "0 to 10**12"),
        ("save_every", "-1", "0 to 10**12"),
        ("max_lr", "0.0", "more than 0"),
        ("max_lr", "nan", "more than 0"),
        ("grad_clip", "0.0", "more than 0"),
        ("min_lr", "nan", "0 to 10**12"),
        ("max_lr", "inf", "more than 0"),
        ("seed", str(10**30), "0 or more, of 18 digits at most"),
        ("weight_decay", "inf", "0 to 10**12"),
        ("compile", "2", "0 or 1"),
        ("resume", "-1", "one of 0, 1, auto"),
    ],
)
def test_a_number_out_of_range_is_refused(capsys, flag, value, expected):
    assert f"--{flag} {value}: expected {expected}\n" in error_of(capsys, f"--{flag}", value)


def test_every_number_has_a_range():
    for f in fields(Settings):
        assert f.metadata["kind"] is str or f.metadata["valid"] is not TEXT, f.name


def test_without_a_gpu_the_small_settings_fill_in_what_was_not_given():
    s = settle(Settings(), {"n_layer": 7}, Compute("cpu"))
    assert (s.n_layer, s.n_embd) == (7, 128)


def test_with_a_gpu_and_shards_the_defaults_are_the_full_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edu_fineweb10B").mkdir()
    (tmp_path / "edu_fineweb10B" / "edufineweb_train_000001.npy").touch()
    full = settle(Settings(), {}, Compute("cuda", world_size=8))
    assert (full.B, full.T, full.total_batch_size) == (64, 1024, 2**19)
    assert (full.n_layer, full.n_embd, full.vocab_size) == (12, 768, 50304)
    assert (full.max_steps, full.warmup_steps) == (19073, 715)
    assert (full.max_lr, full.weight_decay, full.grad_clip) == (6e-4, 0.1, 1.0)
    assert full.min_lr == pytest.approx(6e-5)
    small = settle(Settings(), {}, Compute("cpu"))
    assert (small.data_root, small.n_embd) == ("edu_fineweb10B", 128)


def test_with_a_gpu_but_no_shards_the_small_model_trains_on_the_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    s = settle(Settings(), {}, Compute("cuda"))
    assert (s.data_root, s.n_embd) == ("input.txt", 128)


def test_a_run_prints_loss_time_and_tokens_per_second(tmp_path):
    flags = "--max_steps 2 --val_tokens 1000 --sample_every 0 --log_dir".split()
    result = run(*TINY_FLAGS, *flags, str(tmp_path))
    assert len(losses(result)) == 2
    assert "ms | tok/sec: " in result.stdout


def test_a_dtype_that_is_not_offered_is_refused(capsys):
    assert "--dtype float16: expected float32 or bfloat16" in error_of(capsys, "--dtype", "float16")


def test_a_batch_that_does_not_fill_the_step_names_the_nearest_that_does(capsys):
    flags = "--device cpu --T 64 --total_batch_size 512 --B".split()
    assert "= 3 x 64" in (error := error_of(capsys, *flags, "3")) and "try --B 2" in error
    error = error_of(capsys, "--T", "100", "--total_batch_size", "512", "--device", "cpu")
    assert "try --total_batch_size 500" in error


def test_a_batch_that_was_not_given_is_made_to_fit():
    s = settle(Settings(), {"total_batch_size": 64 * 3}, Compute("cpu"))
    assert s.B == 3


def test_steps_and_rates_follow_from_the_batch():
    s = settle(
        Settings(),
        dict(T=1024, max_lr=1e-3, total_batch_size=2**18, max_steps=None),
        Compute("cuda"),
    )
    assert Settings().max_steps is None and Settings().warmup_steps is None
    assert s.min_lr == pytest.approx(1e-4)


def test_out_of_memory_names_the_batch_to_try(capsys, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("train_gpt2.train", full)
    assert "try --B 2" in error_of(capsys, "--B", "4", "--device", "cpu")
