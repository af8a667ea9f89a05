"""bench.py and its peers at sizes that take moments: what is compared, and how it is counted."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import bench
import fineweb
from bench import Bench, Turn
from support import peers
from support.compute import Compute
from train_gpt2 import Settings

ROOT = Path(bench.__file__).parent
TINY = dict(n_layer=2, n_head=2, n_embd=32, dtype="float32", compile=0)


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> Iterator[Settings]:
    """Steps of a tiny model; one thread per process, so that a busy machine does not matter."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes to come
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    text = tmp_path / "text.txt"
    text.write_text(bench.TEXT.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    yield Bench(Compute("cpu"), 1).settings(2, 16, data_root=str(text), **TINY)
    torch.set_num_threads(threads)


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the printed tables."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def sleeper(seconds: float) -> bench.Run:
    return partial(time.sleep, seconds)


def failing(error: Exception) -> bench.Run:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize("flash", [True, False])
def test_plain_model_is_ours(tiny, flash):
    ours, plain = bench.new_model(tiny), peers.plain_model(bench.new_model(tiny), flash)
    idx = torch.randint(50257, (2, 16))
    torch.testing.assert_close(plain(idx), ours(idx)[0], atol=1e-5, rtol=1e-4)
    targets = idx.roll(-1, dims=1)
    loss = F.cross_entropy(plain(idx).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, ours(idx, targets)[1])


def test_all_forms_of_a_step_learn_the_same(tiny):
    """Whatever the ladder switches on, the losses stay those of train_gpt2.py."""
    ours, plain = bench.our_step(tiny), bench.plain_step(tiny)
    naive = bench.plain_step(tiny, tf32=False, flash=False, fused=True)
    losses = [[run() for _ in range(4)] for run in (ours, plain, naive)]
    assert len(set(losses[0])) == 4  # each batch is another one
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)


def test_a_step_of_several_micro_batches_counts_all_their_tokens(tiny, monkeypatch, capsys):
    whole = replace(tiny, total_batch_size=4 * tiny.B * tiny.T)
    step = bench.our_step(whole)
    compute, loader = Compute("cpu"), bench.DataLoaderLite(8, 16, data_root=tiny.data_root)
    first = bench.new_model(tiny)(*compute.to_device(*loader.next_batch()))[1].item()
    assert step() == pytest.approx(first, abs=1e-5)
    monkeypatch.setattr(bench, "take_turns", lambda *_, **__: [[Turn(0.5, 10**9, 1.0)]])
    bench.print_speed("x", whole, None, 1)
    assert rows(capsys.readouterr().out)[0][1:3] == ["500.0", "256"]


@pytest.mark.parametrize("what", ["speed", "ladder", "gpu"])
def test_a_gpu_s_tables_are_refused_on_a_cpu(what, monkeypatch, capsys):
    monkeypatch.setattr(bench, "pick_device", lambda: "cpu")
    with pytest.raises(SystemExit):
        bench.main([what])
    assert f"error: {what} needs an NVIDIA GPU" in capsys.readouterr().err


def test_transformers_model_has_our_parameters(tiny):
    theirs, ours = bench.transformers_model(tiny), bench.new_model(tiny)
    assert theirs.num_parameters() == sum(p.numel() for p in ours.parameters())
    assert bench.transformers_step(tiny)() == pytest.approx(10.8, abs=0.3)  # ln 50304 = 10.83


def test_ratio_is_the_median_of_the_pairs(capsys):
    bench.compare("x", "tok/s", [100.0, 900.0, 2000.0], [50.0, 300.0, 4000.0], "at least 1")
    assert rows(capsys.readouterr().out) == [
        ["x", "900 tok/s", "300 tok/s", "2", "at least 1"]  # of 2, 3 and 0.5; not 900 / 300
    ]


def test_rates_and_memory_of_a_pair(capsys, monkeypatch, tiny):
    state = 16 * sum(p.numel() for p in bench.new_model(tiny).parameters())
    ours, theirs = [Turn(0.5, state + 10**8, 1.0)], [Turn(2.0, state + 4 * 10**8, 1.0)]
    monkeypatch.setattr(bench, "take_turns", lambda *_: [ours, theirs])
    bench.compare_steps(tiny, 1, "other", None, "at least 3", "at most 0.5")
    speed, memory = rows(capsys.readouterr().out)
    assert speed[0].startswith("step of 2M, 2 x 16, float32; other")
    assert speed[1:] == ["64 tok/s", "16 tok/s", "4", "at least 3"]
    assert memory[1:] == ["100 MB", "400 MB", "0.25", "at most 0.5"]


def test_sides_take_turns_and_warm_ups_do_not_count():
    first, second = bench.take_turns(2, partial(sleeper, 0.01), partial(sleeper, 0.2))
    assert len(first) == len(second) == 2
    for a, b in zip(first, second):
        assert 0.01 <= a.seconds and 0.2 <= b.seconds and a.peak_bytes >= 0


def test_a_side_that_fails_is_heard():
    with pytest.raises(torch.OutOfMemoryError, match="all of it"):
        bench.take_turns(1, partial(failing, torch.OutOfMemoryError("all of it")))


@pytest.mark.soak
def test_both_curves_are_equal(tiny, capsys):
    bench.compare_losses(tiny, 3)
    head, _, *steps, largest = rows(capsys.readouterr().out)
    assert [row[0] for row in steps] == ["step 0", "step 2"]
    assert float(largest[3]) < 1e-3


def test_ladder_runs_on_a_cpu(tiny, monkeypatch, capsys):
    """Every rung takes a step; processes are tested above, compilers by torch."""

    def in_this_process(num, make, warm_ups):
        run = make()
        return [[Turn(0.5, 10**9, run()) for _ in range(num)]]

    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(bench, "take_turns", in_this_process)
    rungs = list(bench.ladder(tiny))
    for name, make in rungs:
        bench.print_speed(name, tiny, make, 1)
    table = rows(capsys.readouterr().out)
    assert len(table) == 8
    assert table[-1][1:] == ["500.0", "64", "", "1.0 GB"]
    steps = [make.args[0] for _, make in rungs]
    assert [s.dtype for s in steps] == ["float32"] * 2 + ["bfloat16"] * 6
    assert [s.vocab_size for s in steps] == [50257] * 5 + [50304] * 3


def test_out_of_memory_is_a_row(tiny, monkeypatch, capsys):
    def take_turns(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(bench, "take_turns", take_turns)
    bench.print_speed("64 x 1024", tiny, None, 1)
    assert rows(capsys.readouterr().out)[0][:2] == ["64 x 1024", "out of memory"]


def test_the_head_alone_is_ours_theirs_and_the_matmuls(tiny, monkeypatch, capsys):
    losses = []

    def in_this_process(num, *makes):
        losses.append([make()() for make in makes])
        return [[Turn(s, 0, None)] * num for s in (0.3, 0.4, 0.2)]

    monkeypatch.setattr(bench, "take_turns", in_this_process)
    monkeypatch.setattr(Bench, "small", lambda _: tiny)
    monkeypatch.setattr(Bench, "gpt2", lambda _: replace(tiny, B=1))
    bench.loss(Bench(Compute("cpu"), 3))
    for ours, plain, matmuls in losses:
        assert ours == pytest.approx(plain, rel=1e-5) and matmuls is None
    table = rows(capsys.readouterr().out)
    assert [row[3] for row in table] == ["0.75", "1.5"] * 2
    assert table[0][0] == "head and loss, 32 rows of 32, float32; plain form"


def test_plain_scoring_answers_like_ours(tiny):
    s, examples = replace(tiny, T=128), bench.load_hellaswag(None, 10)
    assert examples[8:] == examples[:2]  # eight, again and again
    ours, plain = bench.our_scoring(s, examples)(), bench.plain_scoring(s, examples)()
    assert ours == plain


def test_samples_of_all_have_the_same_length(tiny):
    s = replace(tiny, T=64)
    for make in (bench.our_samples, bench.plain_samples, bench.transformers_samples):
        assert make(s, 4, 3)().shape == (4, 35)


def test_samples_are_compared_with_what_they_must_read(tiny, monkeypatch, capsys):
    runs = []

    def in_this_process(num, *makes, **_):
        runs.append([make() for make in makes])
        return [[Turn(s, 0, None)] * num for s in (0.3, 0.6, 0.2)[: len(makes)]]

    monkeypatch.setattr(bench, "take_turns", in_this_process)
    bench.compare_samples(replace(tiny, T=64), 3, 2, 10)
    parameters = sum(p.numel() for p in bench.new_model(tiny).parameters()) - 16 * 32
    assert runs[0][2]() == 10 * (parameters + 2 * 2 * 32 * 2 * (32 + 5))  # keys, values; layers, C
    assert [row[1:4] for row in rows(capsys.readouterr().out)] == [
        ["66.7 tok/s", "33.3 tok/s", "2"],
        ["30 ms", "20 ms", "1.5"],
        ["66.7 tok/s", "33.3 tok/s", "2"],
    ]


def test_plain_shards_are_fineweb_s(tmp_path):
    bench.write_documents(tmp_path, 0.02)
    files = fineweb.find_files(str(tmp_path))
    documents = bench.our_shards(files, tmp_path / "ours", 1500, fineweb.Tiktoken)()
    bench.plain_shards(files, tmp_path / "plain", 1500)()
    assert documents > 5
    shards = sorted((tmp_path / "plain").iterdir())
    assert len(shards) > 2
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "ours" / shard.name).read_bytes()


def test_data_is_measured(monkeypatch, capsys):
    def in_this_process(num, *makes):
        return [[Turn(s, 0, make()()) for s in (0.1, 0.3, 0.2)] for make in makes]

    monkeypatch.setattr(bench, "take_turns", in_this_process)
    monkeypatch.setattr(bench, "our_step", lambda s: lambda: None)
    bench.data(Bench(Compute("cpu"), 3), num_tokens=10_000)
    batch, first = rows(capsys.readouterr().out)
    assert batch[1:4] == ["2 ms", "200 ms", "0.01"]
    assert first[0] == "first batch of a shard of 10,000 tokens"
    assert float(first[1].split()[0]) < 1


def test_a_mistake_gets_one_line(capsys):
    done = subprocess.run(
        [sys.executable, "bench.py", "trian"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "trian" in done.stderr and "tokenize" in done.stderr
    with pytest.raises(SystemExit, match="2"):
        bench.main(["train", "--pairs", "0"])
    assert "'0'" in capsys.readouterr().err
