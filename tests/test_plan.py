"""What a run says first."""

from support.compute import Compute
from support.plan import plan, settle
from tiny import TINY_FLAGS, run
from train_gpt2 import Settings


def test_the_plan_of_the_full_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edu_fineweb10B").mkdir()
    (tmp_path / "edu_fineweb10B" / "edufineweb_train_000001.npy").touch()
    eight = plan(settle(Settings(), {}, Compute("cuda", world_size=8)), 8)
    assert "19,073 steps of 524,288 tokens: 9,999,745,024 tokens" in eight
    assert "1 micro-step(s) of 64 x 1024 tokens on 8 process(es)" in eight
    assert "715 steps up to 0.0006, then down to 6e-05" in eight
    one = plan(settle(Settings(), {"B": 16}, Compute("cuda")), 1)
    assert "32 micro-step(s) of 16 x 1024 tokens on 1 process(es)" in one


def test_the_plan_comes_first(tmp_path):
    result = run(*TINY_FLAGS, *"--max_steps 0 --eval_every 0 --log_dir".split(), str(tmp_path))
    lines = result.stdout.splitlines()
    assert "input.txt; cpu" in lines[0] and lines[1].startswith("0 steps of ")
