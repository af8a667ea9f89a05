"""The learning rate."""

from dataclasses import replace

import pytest

from train_gpt2 import Settings, get_lr

GPT3 = replace(Settings(), max_steps=19073, warmup_steps=715, max_lr=6e-4, min_lr=6e-5)


@pytest.mark.parametrize(
    "step, expected",
    [
        (0, 6e-4 / 715),  # never 0: the first update would be for nothing
        (357, 6e-4 * 358 / 715),
        (714, 6e-4),
        (715, 6e-4),
        (9894, 3.3e-4),  # half of the way down
        (19072, 6e-5),
        (19073, 6e-5),
    ],
)
def test_a_table_of_values(step, expected):
    assert get_lr(step, GPT3) == pytest.approx(expected, rel=1e-4)


def test_the_numbers_of_the_full_run_follow_from_gpt3_s():
    assert int(375e6) // 2**19 == 715  # warm-up tokens
    assert int(10e9) // 2**19 == 19073  # all tokens


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_it_rises_then_falls(schedule):
    s = replace(GPT3, schedule=schedule)
    rates = [get_lr(step, s) for step in range(19074)]
    assert rates[:715] == sorted(rates[:715]) and rates[715:] == sorted(rates[715:], reverse=True)


def test_no_warm_up_and_no_steps_are_possible():
    assert get_lr(0, replace(GPT3, warmup_steps=0)) == 6e-4
    assert get_lr(0, replace(GPT3, warmup_steps=0, max_steps=0)) == 6e-4


@pytest.mark.parametrize(
    "schedule, half, nine_tenths",  # of the way down from 1 to 0
    [("cosine", 0.5, 0.02447), ("linear", 0.5, 0.1), ("wsd", 1, 0.5)],
)
def test_three_ways_down(schedule, half, nine_tenths):
    s = replace(GPT3, max_lr=1, min_lr=0, warmup_steps=0, max_steps=1000, schedule=schedule)
    found = [get_lr(step, s) for step in (0, 500, 900, 1000)]
    assert found == pytest.approx([1, half, nine_tenths, 0], abs=1e-5)


def test_up_to_its_decay_wsd_does_not_depend_on_the_length_of_the_run():
    short = replace(GPT3, max_steps=1000, warmup_steps=50, schedule="wsd")
    long = replace(short, max_steps=5000)
    assert [get_lr(i, short) for i in range(810)] == [get_lr(i, long) for i in range(810)]
    assert get_lr(811, short) < get_lr(811, long)
