"""Experiments on a text of one's own, and what they change in the trainer for a while."""

import json
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train_gpt2
from experiments import __main__ as command
from experiments import judge, letters
from experiments.beyond import qk_norm, z_loss
from experiments.ramp import agreement, growing, pieces
from support.cli import UserError

# ---------- --source --------------------------------------------------------------------


@pytest.fixture
def little(monkeypatch, tmp_path):
    """Texts of 40 bytes are enough, and runs/ is elsewhere."""
    monkeypatch.setattr(letters, "BYTES", 40)
    monkeypatch.setattr(letters, "FEWEST", 20)
    for module in (letters, judge, command):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    return tmp_path


def test_a_source_is_a_text_or_documents_one_after_the_other(little):
    text = little / "a.txt"
    text.write_text("abcdé" * 20)
    assert letters.read(str(text)) == ("abcdé" * 20).encode()[:40]
    folder = little / "documents"
    folder.mkdir()
    lines = [json.dumps({"text": f"document {i}"}) for i in range(9)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    assert letters.read(str(folder)) == b"document 0\n\ndocument 1\n\ndocument 2\n\ndocu"


def test_without_a_name_the_experiments_are_listed(capsys):
    command.main([])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == command.names()


def test_too_short_a_source_is_refused(little):
    (little / "a.txt").write_text("short")
    with pytest.raises(UserError, match="has 5 bytes, expected 20"):
        letters.read(str(little / "a.txt"))


def test_the_last_tenth_of_a_source_validates(little):
    (little / "a.txt").write_bytes(bytes(range(40)))
    train, val = (
        train_gpt2.load_split(str(letters.shards(str(little / "a.txt"))), split)[0]
        for split in ("train", "val")
    )
    assert train.tolist() == list(range(36)) and val.tolist() == list(range(36, 40))


def test_texts_of_the_same_name_do_not_share_their_runs(little):
    folders = []
    for name in ("a", "b"):
        (little / name).mkdir()
        (little / name / "mine.txt").write_text(name * 40)
        folders.append(letters.shards(str(little / name / "mine.txt")))
    assert folders[0] != folders[1]


def test_the_best_setting_is_not_that_of_a_lucky_seed(monkeypatch):
    losses = {"a": [3, 5, 5], "b": [4, 4, 4], "c": [6, 1, 1]}  # with seed 1 c is the worst
    runs = []

    def run(name, flags, quick=False):
        variant, seed = flags[0], flags[-1]
        runs.append((variant, seed))
        return variant, seed

    monkeypatch.setattr(judge, "run", run)
    monkeypatch.setattr(judge, "read", lambda log: np.array([[9, losses[log[0]][log[1] - 1]]]))
    best, found = judge.tuned("x", {v: [v] for v in losses}, (1, 2, 3))
    assert best == "b" and list(found) == ["a", "b"]
    assert ("c", 2) not in runs


def test_another_text_leaves_the_figures_of_the_book_alone(little, monkeypatch):
    module = types.ModuleType("fake")
    module.draw = lambda quick, source="plays": print(source) or panels_of_nothing()
    monkeypatch.setattr(command, "import_module", lambda name: module)
    monkeypatch.setattr(command, "FIGURES", little / "figures")
    (little / "runs").mkdir()
    command.run("muon", quick=False, source="texts/mine.txt")
    assert (little / "runs" / "muon mine.txt").read_text() == "texts/mine.txt\n"
    assert not (little / "figures").exists()
    module.draw = lambda quick: panels_of_nothing()
    with pytest.raises(UserError, match="a text of its own"):
        command.run("tied", quick=False, source="texts/mine.txt")


def panels_of_nothing():
    from experiments.drawing import panels

    return panels()[0]


# ---------- A batch that grows ----------------------------------------------------------


def test_noise_scale_of_gradients_whose_noise_is_known():
    generator = torch.Generator().manual_seed(0)
    signal = torch.zeros(1000)
    signal[0] = 5  # squared norm 25; the noise has 1000 x 0.2^2 = 40: a scale of 1.6 rows
    gradients = signal + 0.2 * torch.randn(4000, 1000, generator=generator)
    cosine, scale = agreement(gradients)
    assert scale == pytest.approx(40 / 25, rel=0.02)
    assert cosine == pytest.approx(25 / 65, rel=0.02)  # signal^2 / (signal^2 + noise^2)
    two = torch.tensor([[3.0, 2.0], [3.0, -2.0]])  # by hand: noise 8, signal 9 - 8 / 2
    assert agreement(two) == pytest.approx((5 / 13, 8 / 5))


def test_a_growing_batch_reads_each_piece_once_and_updates_less_often(monkeypatch):
    taken, loader = [], types.SimpleNamespace(position=0)

    def train_step(model, optimizer, loader, compute, micro_steps, rate, clip):
        taken.append((loader.position, micro_steps, rate))
        loader.position += 128 * micro_steps
        return "loss", "norm"

    monkeypatch.setattr("experiments.ramp.train_step", train_step)
    original = train_gpt2.train_step
    with growing():
        for _ in range(2):  # the second run begins as the first did
            taken.clear()
            loader.position = 0
            for step in range(4000):
                got = train_gpt2.train_step(None, None, loader, None, 1, step, 1.0)
                assert got == ("loss", "norm")
            assert len(taken) == 673
    assert train_gpt2.train_step is original
    sizes = [size for _, size, _ in taken]
    assert sizes == sorted(sizes) and set(sizes) == set(range(1, 9))
    assert [rate for *_, rate in taken] == [position // 128 for position, *_ in taken]
    assert all(pieces(position) == size for position, size, _ in taken)
    assert pieces(0) == 1 and pieces(102_399) == 8 and pieces(102_400) == 8


# ---------- What is not in GPT-2 --------------------------------------------------------


def test_qk_norm_compares_directions_and_is_gone_afterwards():
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    before = F.scaled_dot_product_attention
    with qk_norm():
        got = train_gpt2.attend_causally(q, k, v)
        longer = train_gpt2.attend_causally(7 * q, k / 3, v)
    directions = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * 8**0.5
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    want = directions.masked_fill(hidden, -torch.inf).softmax(-1) @ v
    assert torch.allclose(got, want, atol=1e-5) and torch.allclose(longer, want, atol=1e-5)
    assert F.scaled_dot_product_attention is before


def test_the_z_loss_and_its_gradient_are_added_in_training_only():
    torch.manual_seed(0)
    model = train_gpt2.GPT(train_gpt2.GPTConfig(8, 50, 1, 2, 16))
    model.lm_head.weight.data *= 50  # so that ln Z differs from place to place
    idx, targets = torch.randint(50, (2, 3, 8))
    parameters, forward = list(model.parameters()), train_gpt2.GPT.forward
    z = model(idx)[0].exp().sum(-1).log()
    plain = model(idx, targets)[1]
    want = plain + 1e-4 * z.square().mean()
    assert (z.square().mean() / z.mean() ** 2).item() > 1.02
    with z_loss():
        got = model(idx, targets)[1]
        with torch.no_grad():
            assert model(idx, targets)[1].item() == pytest.approx(plain.item(), abs=1e-5)
    assert (got - plain).item() == pytest.approx((want - plain).item(), rel=5e-3)
    gradients = zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters))
    for ours, by_hand in gradients:
        torch.testing.assert_close(ours, by_hand, rtol=1e-3, atol=1e-6)
    assert train_gpt2.GPT.forward is forward
