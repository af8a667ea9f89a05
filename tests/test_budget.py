"""The budget of a step, and bench.py's parts for a GPU, at sizes that a CPU does in moments."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import bench
from bench import Bench, Turn
from support import budget, gpu, peers
from support.compute import Compute
from test_bench import rows, tiny  # noqa: F401

CPU = Compute("cpu")


def matmuls_counted(run) -> int:
    """Multiplications and additions of matmuls in what torch runs."""
    with FlopCounterMode(display=False) as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    return sum(flops for op, flops in counts.items() if "mm" in str(op))


def test_matmuls_on_paper_are_those_of_a_step(tiny):  # noqa: F811
    model = peers.plain_model(bench.new_model(tiny))
    x, y = torch.randint(50257, (2, tiny.B, tiny.T))

    def step() -> None:
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()

    assert budget.matmul_flops(tiny) == matmuls_counted(step)
    assert budget.matmul_flops(tiny) == matmuls_counted(budget.step_matmuls(tiny, CPU))


def test_gpt2_s_matmuls():
    s = Bench(CPU, 1).settings(4, 256, **bench.GPT2)
    assert budget.matmul_flops(s) == 6 * 4 * 256 * (12 * 12 * 768**2 + 50304 * 768)


def test_what_is_moved(tiny):  # noqa: F811
    exact, low = budget.moved_bytes(tiny, 4), budget.moved_bytes(tiny, 2)
    parameters = sum(p.numel() for p in bench.new_model(tiny).parameters() if p.dim() > 1)
    assert exact["norm and AdamW"] == low["norm and AdamW"] == 32 * parameters
    assert exact["casts of weights and gradients"] == 0
    assert low["casts of weights and gradients"] == 12 * parameters
    assert low["the loss"] < exact["the loss"]
    wider = budget.moved_bytes(replace(tiny, B=2 * tiny.B), 4)
    assert wider["between the matmuls"] == 2 * exact["between the matmuls"]


@pytest.mark.parametrize(
    "kernel, group",
    [
        ("aten::addmm", "matmuls"),
        ("nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_NNT", "matmuls"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_fused_adamw_", "norm and AdamW"),
        ("triton_red_fused__to_copy_add_native_layer_norm_0", "the rest"),
        ("triton_poi_fused_addmm_gelu_view_3", "the rest"),
        ("vectorized_layer_norm_kernel", "the rest"),
    ],
)
def test_kernels_have_their_group(kernel, group):
    assert budget.group_of(kernel) == group


def test_a_profile_holds_the_whole_step(tiny):  # noqa: F811
    found = budget.profiled(bench.our_step(tiny), CPU)
    assert found.keys() == {"matmuls", "attention", "norm and AdamW", "the rest"}
    assert min(found.values()) > 0


def test_the_budget_adds_up(tiny, capsys):  # noqa: F811
    bench.print_budget(tiny)
    _, _, *groups, whole = rows(capsys.readouterr().out)
    predicted = [float(row[2].removesuffix(" ms").replace(",", "")) for row in [*groups, whole]]
    assert sum(predicted[:-1]) == pytest.approx(predicted[-1], rel=0.02)


def test_a_step_is_compared_with_its_matmuls(tiny, monkeypatch, capsys):  # noqa: F811
    def in_this_process(num, *makes, warm_ups):
        for make in makes:
            make()()
        return [[Turn(seconds, 0, None)] * num for seconds in (0.3, 0.5, 0.2)]

    monkeypatch.setattr(bench, "take_turns", in_this_process)
    monkeypatch.setattr(bench, "has_bfloat16", lambda _: False)
    monkeypatch.setattr(Bench, "gpt2", lambda _: tiny)
    bench.compare_with_matmuls(Bench(CPU, 3))
    ours, plain = rows(capsys.readouterr().out)[2:]
    assert (ours[3], plain[3]) == ("1.5", "2.5")


def test_limits_are_printed(tiny):  # noqa: F811
    found = dict(gpu.limits(tiny, CPU))
    shapes = [name for name in found if "->" in name]
    assert len(shapes) == 5 and "matmul 32 -> 50304: forward, dx, dw" in shapes
    assert found["attention of a micro-step, FLASH_ATTENTION"].endswith(" ms")
    assert not found["attention of a micro-step, CUDNN_ATTENTION"].endswith(" ms")  # has none


def test_errors_are_small_and_a_wrong_form_is_seen(tiny, monkeypatch):  # noqa: F811
    def found() -> list[float]:
        table = dict(gpu.errors(tiny, bench.new_model(tiny), CPU))
        return [float(x) for values in table.values() for x in values.split(", ")]

    monkeypatch.setattr(torch, "compile", lambda form: form)
    assert max(found()) < 1e-5
    wrong = gpu.chunked_cross_entropy
    monkeypatch.setattr(gpu, "chunked_cross_entropy", lambda *args: 1.01 * wrong(*args))
    assert max(found()) > 5e-3


@pytest.mark.soak
def test_the_true_script_runs_and_resumes(tiny, tmp_path):  # noqa: F811
    flags = "--size small --n_layer 1 --n_head 2 --n_embd 32 --T 16 --B 2 --total_batch_size 32"
    flags += f" --val_tokens 64 --data_root {tiny.data_root} --device cpu"
    lines = list(gpu.true_run(tmp_path / "log", flags.split()))
    text = "\n".join(line for _, line in lines)
    assert [line for _, line in lines if "exit code" in line] == ["exit code 0"] * 2
    assert "model_00005.pt" in text and "goes on at step 5" in text and "step     7" in text


@pytest.mark.parametrize("part", [4, 5, 6])
def test_parts_that_measure_steps(part, tiny, monkeypatch, capsys):  # noqa: F811
    def in_this_process(num, *makes, warm_ups):
        losses = [make()() for make in makes]
        return [[Turn(0.5, 10**9, loss) for _ in range(num)] for loss in losses]

    monkeypatch.setattr(bench, "take_turns", in_this_process)
    monkeypatch.setattr(bench.chunks, "ROWS_GPU", 1)  # is put back
    shape = dict(n_layer=1, n_head=2, n_embd=32, dtype="float32", compile=0)
    bench.on_gpu(Bench(CPU, 1), part, B=2, T=16, **shape)
    found = rows(capsys.readouterr().out)
    if part == 4:
        names = [row[0] for row in found[2:]]
        assert names == [*(f"loss of {n} rows" for n in (8192, 16384, 32768)), names[-1]]
        assert bench.chunks.ROWS_GPU == 32768
    if part == 6:
        assert found[-1][0] == "largest of 200 steps" and float(found[-1][3]) < 1e-5


def test_a_part_is_appended(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "on_gpu", lambda bench, part: print(f"| part {part} |"))
    for part in (1, 2):
        bench.append_part(Bench(CPU, 1), part, "H100")
    text = (tmp_path / "bench_gpu.md").read_text()
    assert text == "".join(f"\n## Part {n}\n\nH100\n| part {n} |\n" for n in (1, 2))
