"""The judge of settings: pairs, spread, and runs that are not repeated."""

import numpy as np
import pytest

import train_gpt2
from experiments import judge
from experiments.small import TEXT


def curve(*losses: float) -> np.ndarray:
    return np.array([(10 * i, loss) for i, loss in enumerate(losses)])


def test_the_step_at_which_a_loss_is_reached_lies_between_two_points():
    assert judge.steps_to(curve(9, 5, 3), 4) == 15
    assert judge.steps_to(curve(9, 5, 3), 3) == 20
    assert judge.steps_to(curve(9, 5, 7, 3), 5) == 10  # the first time
    assert judge.steps_to(curve(9, 5, 3), 2) == np.inf


def test_seeds_are_compared_in_pairs_and_small_differences_are_called_so(capsys):
    base = [curve(9, 5.0), curve(9, 5.4)]
    judge.report(
        {
            "base": base,
            "little": [curve(9, 4.9), curve(9, 5.3)],
            "much": [curve(9, 3), curve(7, 3)],
        },
        "base",
    )
    header, first, little, much = capsys.readouterr().out.splitlines()
    assert first.split() == "base 5.200 0.400 +0.0000 +0.0000 1.00 to 1.00".split()
    assert little.split()[1:5] == "5.100 0.400 -0.1000 -0.1000".split()
    assert little.endswith("(less than the spread)")
    assert much.split()[1:] == "3.000 0.000 -2.0000 -2.4000 0.40 to 0.67".split()


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "RUNS", tmp_path)
    return tmp_path


FLAGS = [*judge.TINY, "--data_root", TEXT, "--device", "cpu", "--dtype", "float32"]


def test_a_run_is_the_trainers_and_is_not_repeated(runs, monkeypatch):
    logs = judge.compare("x", {"plain": FLAGS}, (1, 2))
    one, two = judge.curves(logs)["plain"]
    assert one[:, 0].tolist() == [0, 2, 4] and one[0, 1] != two[0, 1]
    train_gpt2.main(
        [*FLAGS, "--seed", "1", "--log_dir", str(runs / "alone"), "--sample_every", "0"]
    )
    assert np.array_equal(judge.read(runs / "alone" / "log.txt"), one)
    monkeypatch.setattr(judge, "main", None)  # cannot be called
    assert judge.compare("x", {"plain": FLAGS}, (1, 2)) == logs
    with pytest.raises(TypeError):  # other flags, another run
        judge.compare("x", {"plain": [*FLAGS, "--max_lr", 0.01]}, (1,))


def test_a_run_that_was_killed_goes_on(runs, monkeypatch):
    flags = [*FLAGS, "--save_every", 2]
    train_step, calls = train_gpt2.train_step, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 4:
            raise MemoryError  # as by a kill: nothing is saved
        return train_step(*args)

    monkeypatch.setattr(train_gpt2, "train_step", killed)
    with pytest.raises(MemoryError):
        judge.run("x", flags)
    log = judge.run("x", flags)
    assert len(calls) == 6  # two steps to the checkpoint, two lost, and they are made again
    assert judge.read(log)[:, 0].tolist() == [0, 2, 4]
