"""The models of the papers, by name."""

from dataclasses import asdict

import pytest
import torch

from support.cli import UserError
from support.compute import Compute
from support.plan import settle
from support.sizes import SIZES
from tiny import error_of, run
from train_gpt2 import GPT, Settings, start_model

# GPT-2's, with 50257 rows, as counted in OpenAI's weights; GPT-3's as its table 2.1 rounds them
PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-small": 125e6,
    "gpt3-medium": 350e6,
    "gpt3-large": 760e6,
    "gpt3-xl": 1.3e9,
}


def settings(**given) -> Settings:
    return settle(Settings(), {"data_root": "input.txt", **given}, Compute("cpu"))


def model_of(size: str) -> GPT:
    with torch.device("meta"):
        return start_model(settings(size=size, vocab_size=50257))


def test_the_parameters_are_the_papers():
    for name, expected in PARAMETERS.items():
        found = sum(p.numel() for p in model_of(name).parameters())
        print(f"{name:12} {found:15,d} {SIZES[name]['max_lr']:g}")
        assert found == expected if name.startswith("gpt2") else abs(found / expected - 1) < 0.02
    assert set(SIZES) == {*PARAMETERS, "small"}


def test_heads_context_batches_and_rates_are_the_papers():
    fields = ("n_head", "T", "total_batch_size", "max_lr")
    assert {name: tuple(SIZES[name][f] for f in fields) for name in PARAMETERS} == {
        "gpt2": (12, 1024, 2**19, 6e-4),
        "gpt2-medium": (16, 1024, 2**19, 3e-4),
        "gpt2-large": (20, 1024, 2**19, 2.5e-4),
        "gpt2-xl": (25, 1024, 2**20, 2e-4),
        "gpt3-small": (12, 2048, 2**19, 6e-4),
        "gpt3-medium": (16, 2048, 2**19, 3e-4),
        "gpt3-large": (16, 2048, 2**19, 2.5e-4),
        "gpt3-xl": (16, 2048, 2**20, 2e-4),  # of 24 heads in the paper
    }


def test_a_size_sets_shape_context_batch_and_rate_and_a_flag_wins():
    s = settings(size="gpt3-xl", n_layer=2)
    assert (s.n_layer, s.n_head, s.n_embd, s.T) == (2, 16, 2048, 2048)
    assert (s.total_batch_size, s.max_lr, s.min_lr) == (2**20, 2e-4, pytest.approx(2e-5))
    assert s.max_steps == int(10e9) // 2**20
    assert model_of("gpt3-small").config.block_size == 2048


def test_a_size_for_gpus_has_a_laptop_s_batch_where_there_is_none():
    assert settings(size="gpt2").B == 4
    assert settle(Settings(), {"size": "gpt2"}, Compute("cuda")).B == 64
    assert settle(Settings(), {"size": "small"}, Compute("cuda")).B == 4


def test_the_warm_up_is_a_share_of_the_steps():
    assert [settings(max_steps=n).warmup_steps for n in (1200, 20, 5000)] == [60, 1, 250]
    assert [settings(size="gpt2", max_steps=n).warmup_steps for n in (19073, 1907)] == [715, 72]
    assert settings(max_steps=20, warmup_steps=7).warmup_steps == 7


def test_an_unknown_size_names_the_known(capsys):
    assert "--size gpt5: expected one of gpt2, gpt2-medium" in error_of(capsys, "--size", "gpt5")


def test_the_first_line_says_what_was_chosen_and_why(tmp_path):
    flags = ("--device", "cpu", "--max_steps", "0", "--eval_every", "0", "--sample_every", "0")
    first, *_ = run(*flags, "--log_dir", str(tmp_path)).stdout.splitlines()
    assert first.startswith("size small (no NVIDIA GPU here; --size names another): 4 layers")
    named = run(*flags, "--size", "small", "--n_layer", "3", "--log_dir", str(tmp_path))
    assert named.stdout.startswith("size small: 3 layers of width 128 on input.txt; cpu")


def test_a_recipe_sets_what_a_size_does_not_and_a_flag_wins():
    paper, fast = settings(size="gpt2"), settings(size="gpt2", recipe="fast")
    assert paper == settings(size="gpt2", recipe="paper")
    assert (paper.optimizer, paper.schedule, paper.max_lr, paper.min_lr) == (
        "adamw",
        "cosine",
        6e-4,
        pytest.approx(6e-5),
    )
    assert (fast.optimizer, fast.schedule, fast.min_lr) == ("muon", "linear", 0.0)
    assert fast.max_lr == pytest.approx(4 * 6e-4)
    typed = settings(size="gpt2", recipe="fast", max_lr=1e-3, optimizer="adamw")
    assert (typed.max_lr, typed.optimizer, typed.schedule) == (1e-3, "adamw", "linear")


def test_a_run_of_a_recipe_goes_on_as_it_was(tmp_path):
    s = settings(size="small", recipe="fast", schedule="wsd")
    checkpoint = {"settings": asdict(s), "step": 3}
    again = settle(Settings(), {"data_root": "input.txt"}, Compute("cpu"), None, checkpoint)
    assert again == s
    with pytest.raises(UserError, match="--recipe paper: the run in log has fast"):
        settle(Settings(), {"recipe": "paper"}, Compute("cpu"), None, checkpoint)
