"""Any flags with any values: a plan, or one line with exit code 2; nothing else, and soon."""

import os
import signal
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from io import StringIO, TextIOWrapper
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import export
import fineweb
import hellaswag
import sample
from support.cli import one_line_errors, parse_flags
from support.compute import start_compute
from support.plan import introduce, settle
from train_gpt2 import Settings, start_from

SECONDS = 60  # what a thousandth would do for; more is a hang
ODD = "0 1 2 -1 -0 +3 007 1_000 1e9 1e400 -1e-400 0x10 nan inf -inf true None auto ١٢ ² ½ １ 🏖"
ODD += " . .. / missing missing/file.pt file file/x shards empty.pt ~ -- -x --B 99999 small gpt3"
ODD += " cpu cpu:0 cuda cuda:7 cuda: mps float32 bfloat16 float16"
ODD = [*ODD.split(), "", " ", " 1 ", "1\n", "a" * 300, "a\udcff"]  # half a character, last
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.integers(-(10**6), 10**6).map(str),
    st.floats().map(str),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)
ALL = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def lines(names: list[str]) -> st.SearchStrategy[list[str]]:
    """Command lines of these flags."""
    pair = st.tuples(st.sampled_from(names), VALUES)
    apart, together = pair.map(list), pair.map(lambda p: ["=".join(p)])
    return st.lists(st.one_of(apart, together), max_size=6).map(lambda parts: sum(parts, []))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """One with a file, a folder and an empty checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("To be, or not to be")
    Path("shards").mkdir()
    Path("empty.pt").touch()


def hang(*_: object) -> None:
    raise AssertionError(f"took more than {SECONDS} s")


def end_of(main, argv: list[str]) -> int:
    """The exit code of main(argv), 0 if it returns; its one line of error is checked."""
    output, errors, code = TextIOWrapper(open(os.devnull, "wb"), "utf-8"), StringIO(), 0
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        with output, redirect_stdout(output), redirect_stderr(errors):
            main(argv)
    except SystemExit as end:
        code = end.code
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    said = errors.getvalue()
    assert code in (0, 2) and said.count("\n") == (code == 2), (code, said)
    assert code == 0 or said.startswith("error: ")
    return code


def plan(argv: list[str]) -> None:
    """main of train_gpt2.py up to the training."""
    with one_line_errors():
        typed = parse_flags(Settings, argv, "")
        compute = start_compute(typed.get("device"), typed.get("dtype"))
        trained, checkpoint = start_from(typed, compute)
        s = settle(Settings(), typed, compute, trained and trained.config, checkpoint)
        compute = compute.with_dtype(s.dtype)
        introduce(s, typed, compute, checkpoint)
        assert s.total_batch_size % (s.B * s.T) == 0


def read_only(argv: list[str]) -> None:
    """main of fineweb.py up to the source."""
    with one_line_errors():
        args = fineweb.parse_args(argv)
        if args.verify:
            fineweb.verify_out(args.out)
        else:
            fineweb.open_out(args.out, {}, args.shard_size)


FINEWEB = "--out --shard_size --shards --nprocs --verify --source".split()
SAMPLE = "--prompt_file --max_new_tokens --num_samples --temperature --top_k --seed".split()
HELLASWAG = "--data --device --dtype --limit".split()


@settings(max_examples=80, **ALL)
@given(lines([f"--{f.name}" for f in fields(Settings)]))
@example(["--n_layer=--"])
@example(["--size", "1\n"])
@example(["--log_dir", "a" * 300, "--resume", "auto"])
def test_train_gpt2(argv):
    end_of(plan, argv)


@settings(max_examples=20, **ALL)
@given(lines(FINEWEB))
def test_fineweb(argv):
    end_of(read_only, argv)


@settings(max_examples=20, **ALL)
@given(VALUES, lines([*SAMPLE, "--device", "--dtype"]))
def test_sample(model, argv):
    assert end_of(sample.main, [*argv, f"./{model}"]) == 2 or "--help" in argv


@settings(max_examples=20, **ALL)
@given(VALUES, lines(HELLASWAG))
def test_hellaswag(model, argv):
    assert end_of(hellaswag.main, ["--data", "missing", *argv, "--model", f"./{model}"]) == 2


@settings(max_examples=20, **ALL)
@given(st.lists(VALUES, max_size=3))
@example(["empty.pt", "a" * 300])
def test_export(argv):
    assert end_of(export.main, argv) == 2
