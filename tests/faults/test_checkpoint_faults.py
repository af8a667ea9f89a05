"""Checkpoints that a disk or a person has changed: the right weights, or one line."""

import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import export
import hellaswag
import sample
import train_gpt2
from support.cli import UserError
from support.runs import newest_checkpoint, read_checkpoint
from tiny import ROOT, TINY_FLAGS, losses, run, tiny_model, write_shards
from train_gpt2 import GPT, Settings, load_model


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    model = tiny_model()
    path = tmp_path_factory.mktemp("checkpoint") / "model_00004.pt"
    moments = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    checkpoint = {"model": model.state_dict(), "config": asdict(model.config), "step": 4}
    torch.save({**checkpoint, "optimizer": moments}, path)
    return path


def is_right(checkpoint: dict, expected: dict) -> bool:
    """The same numbers, bit for bit."""
    return checkpoint["step"] == 4 and all(
        torch.equal(checkpoint[part][name], value)
        for part in ("model", "optimizer")
        for name, value in expected[part].items()
    )


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One bit flipped, a stretch overwritten, cut off, or left out."""
    position, length = rng.randrange(len(content)), rng.randint(1, 2000)
    before, after = content[:position], content[position + length :]
    match rng.randrange(5):
        case 0:
            return before
        case 1:
            return before + after
        case 2:
            return before + rng.randbytes(length) + after
        case _:
            flipped = content[position] ^ (1 << rng.randrange(8))
            return before + bytes([flipped]) + content[position + 1 :]


def try_mutations(original: Path, folder: Path, count: int) -> dict[str, int]:
    """How reading ends: with the right numbers, a clear error, or wrong numbers."""
    expected, content = read_checkpoint(original), original.read_bytes()
    rng, path, ends = random.Random(0), folder / original.name, dict(right=0, refused=0, wrong=0)
    for _ in range(count):
        path.write_bytes(mutate(content, rng))
        try:
            checkpoint = read_checkpoint(path)
            GPT.from_checkpoint(checkpoint)
        except UserError as error:
            assert "\n" not in str(error)
            ends["refused"] += 1
            continue
        ends["right" if is_right(checkpoint, expected) else "wrong"] += 1
    return ends


def test_a_changed_checkpoint_is_refused_or_right(original, tmp_path):
    ends = try_mutations(original, tmp_path, 200)
    print("200 damaged checkpoints:", ", ".join(f"{n} {end}" for end, n in ends.items()))
    assert ends["wrong"] == 0 and ends["refused"] > 100


@pytest.mark.soak
def test_thousands_of_changed_checkpoints_are_refused_or_right(original, tmp_path):
    assert try_mutations(original, tmp_path, 5000)["wrong"] == 0


def test_a_changed_one_falls_back_to_the_one_before(original, tmp_path, capsys):
    shutil.copy(original, tmp_path / "model_00003.pt")
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model_00004.pt").write_bytes(content)
    assert is_right(newest_checkpoint(str(tmp_path)), read_checkpoint(original))
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("change", [{"n_layer": 3}, {"n_embd": 8}, {"vocab_size": 99}])
def test_weights_that_do_not_fit_the_config_are_refused(original, tmp_path, change):
    checkpoint = read_checkpoint(original)
    checkpoint["config"] |= change
    torch.save(checkpoint, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt does not hold the weights of its config: [^\n]*$"):
        read_checkpoint(tmp_path / "a.pt")


# ---------- Contents of the wrong kind --------------------------------------------------

WTE, HEAD = "transformer.wte.weight", "lm_head.weight"
BIAS = "transformer.ln_f.bias"


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory) -> Path:
    """The log_dir of a run, with checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("four")
    write_shards(folder, 500)
    flags = "--T 16 --total_batch_size 64 --eval_every 0 --sample_every 0 --save_every 2"
    flags += f" --max_steps 4 --vocab_size 100 --log_dir {folder} --data_root {folder}"
    assert losses(run(*TINY_FLAGS, *flags.split()))
    return folder


@pytest.fixture
def log(four_steps, tmp_path) -> Path:
    return shutil.copytree(four_steps, tmp_path / "log")


def put(*keys):
    """A change: the value at the end of the keys before it, or nothing there if it is absent."""

    def change(checkpoint):
        *path, last, value = keys
        inner = checkpoint
        for key in path:
            inner = inner[key]
        if value is absent:
            del inner[last]
        else:
            inner[last] = value
        return checkpoint

    return change


def absent():
    """Stands for a key that is not there."""


# What `path` then holds, and a word of what is said of it.
NO_MODEL = {
    "a list": (lambda c: [c], "something other than a checkpoint"),
    "a tensor": (lambda c: c["rng"], "something other than a checkpoint"),
    "no model": (put("model", absent), "something other than a checkpoint"),
    "an empty model": (put("model", {}), f"{WTE} is missing"),
    "a model that is a text": (put("model", "gpt2"), f"{WTE} is missing"),
    "a model that is a list": (put("model", [1, 2]), f"{WTE} is missing"),
    "numbers for names": (put("model", {1: torch.ones(1)}), f"{WTE} is missing"),
    "a weight too many": (put("model", "x", torch.ones(1)), "holds 'x', which GPT-2 has not"),
    "a weight too few": (put("model", BIAS, absent), f"{BIAS} is missing"),
    "a weight that is a list": (put("model", BIAS, [0.0] * 16), f"{BIAS} is a list"),
    "a weight of another shape": (put("model", BIAS, torch.ones(15)), r"of shape \[15\], expected"),
    "whole numbers": (put("model", BIAS, torch.ones(16, dtype=torch.int64)), "is int64"),
    "complex numbers": (put("model", BIAS, torch.ones(16, dtype=torch.complex64)), "is complex64"),
    "a sparse weight": (put("model", BIAS, torch.ones(16).to_sparse()), f"{BIAS} is float32"),
    "a weight on no device": (put("model", BIAS, torch.ones(16, device="meta")), f"{BIAS} is"),
    "a weight not finite": (put("model", BIAS, torch.full((16,), torch.nan)), "is not finite"),
    "a head of its own": (put("model", HEAD, torch.ones(100, 16)), "not its token embedding"),
    "a config that is a text": (put("config", "gpt2"), "something other than a checkpoint"),
    "a config that is short": (
        put("config", "n_head", absent),
        "something other than a checkpoint",
    ),
    "a text for a number": (
        put("config", "n_head", "2"),
        "has n_head '2', expected a whole number",
    ),
    "a bool for a number": (put("config", "n_layer", True), "has n_layer True"),
    "a fraction": (put("config", "n_layer", 2.0), "has n_layer 2.0"),
    "no layers": (put("config", "n_layer", 0), "has n_layer 0"),
    "heads that do not divide": (put("config", "n_head", 3), "n_head 3 does not divide"),
    "layers without end": (
        put("config", "n_layer", 10**9),
        "transformer.h.2.ln_1.weight is missing",
    ),
    "a width without end": (put("config", "n_embd", 10**400), f"{WTE} is float32 of shape"),
    "no step": (put("step", absent), "something other than a checkpoint"),
    "a step that is a text": (put("step", "x"), "has step 'x', expected a whole number"),
    "a step that is a tensor": (put("step", torch.tensor(4)), "has step tensor"),
    "a step below 0": (put("step", -1), "has step -1"),
}
SGD = torch.optim.SGD([torch.ones(3)], lr=0.1, momentum=0.9).state_dict()
NO_RUN = {
    "a model only": (put("optimizer", absent), "holds a model only"),
    "no loader": (put("loader", absent), "holds a model only"),
    "no rng": (put("rng", absent), "holds a model only"),
    "no settings": (put("settings", absent), "holds a model only"),
    "another optimizer": (put("optimizer", SGD), "its optimizer holds other"),
    "an optimizer that is a list": (put("optimizer", []), "its optimizer holds other"),
    "moments in a list": (put("optimizer", "state", []), "its optimizer holds other"),
    "a moment too few": (put("optimizer", "state", 0, "exp_avg", absent), "its optimizer"),
    "a moment of another shape": (
        put("optimizer", "state", 0, "exp_avg_sq", torch.ones(16)),
        "its optimizer",
    ),
    "moments of nothing": (put("optimizer", "state", 0, absent), "its optimizer"),
    "moments of nobody": (put("optimizer", "state", 999, {}), "its optimizer"),
    "a loader that is a text": (put("loader", "x"), "its loader holds other"),
    "a position that is a text": (put("loader", "position", "x"), "its loader"),
    "a position below 0": (put("loader", "position", -5), "its loader"),
    "shards that are a number": (put("loader", "shards", 7), "its loader"),
    "an rng that is a text": (put("rng", "x"), "its rng holds other"),
    "an rng that is short": (put("rng", torch.zeros(7, dtype=torch.uint8)), "its rng"),
    "an rng of floats": (put("rng", torch.zeros(5056)), "its rng"),
    "a GPU's rng that is a text": (put("cuda_rng", "x"), "its cuda_rng"),
    "settings that are a list": (put("settings", []), "its settings holds other"),
    "a text for B": (put("settings", "B", "4"), "its settings"),
    "B of 0": (put("settings", "B", 0), "its settings"),
    "a rate that is no number": (put("settings", "max_lr", float("nan")), "its settings"),
    "a folder that is a number": (put("settings", "data_root", 7), "its settings"),
    "rows that the model does not take": (put("settings", "T", 17), "its settings"),
    "a loss that is a text": (put("val_loss", "x"), "its val_loss holds other"),
    "changes that are a text": (put("resumed", "x"), "its resumed"),
    "changes that are tensors": (put("resumed", [torch.ones(1)]), "its resumed"),
}


def change_newest(log: Path, change) -> Path:
    path = log / "model_00004.pt"
    torch.save(change(torch.load(path, weights_only=True)), path)
    return path


@pytest.mark.parametrize("name", NO_MODEL)
def test_what_is_no_model_is_named_in_one_line(log, name):
    change, said = NO_MODEL[name]
    path = change_newest(log, change)
    with pytest.raises(UserError, match=f"^[^\n]*{path}[^\n]* {said}[^\n]*$"):
        load_model(str(path))


@pytest.mark.parametrize("name", NO_MODEL | NO_RUN)
def test_a_run_goes_on_with_the_checkpoint_before(log, name, capsys):
    change, said = (NO_MODEL | NO_RUN)[name]
    path = change_newest(log, change)
    assert newest_checkpoint(str(log), Settings)["step"] == 2
    told = capsys.readouterr().out
    assert told.startswith(str(path)) and told.endswith("; trying the one before\n")
    assert told.count("\n") == 1
    if name in NO_RUN:
        load_model(str(path))  # its model is whole


def resume(log: Path, *flags: str):
    return run("--device", "cpu", "--resume", "1", "--log_dir", str(log), *flags)


def test_the_steps_after_the_checkpoint_before_are_the_same(log):
    expected = (log / "log.txt").read_text()
    change_newest(log, put("rng", "x"))
    assert len(losses(resume(log))) == 2
    assert (log / "log.txt").read_text() == expected


@pytest.mark.parametrize("how", ["1", "auto"])
def test_where_there_is_none_before_its_fault_is_the_error(log, how):
    path = change_newest(log, put("loader", "x"))
    (log / "model_00002.pt").unlink()
    before = {path: path.read_bytes() for path in log.iterdir()}
    result = resume(log, "--resume", how, "--max_steps", "4", "--eval_every", "0")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"--resume {how}: {path}: its loader holds other" in result.stderr
    assert {path: path.read_bytes() for path in log.iterdir()} == before


@pytest.mark.parametrize(
    "script, flags",
    [
        (train_gpt2, "--device cpu --init_from {path} --log_dir {log}/new"),
        (sample, "{path} --device cpu"),
        (hellaswag, f"--model {{path}} --device cpu --data {ROOT}/tests/data/hellaswag_8.jsonl"),
        (export, "{path} {log}/out"),
    ],
)
def test_each_command_ends_with_one_line(log, script, flags, capsys):
    path = change_newest(log, put("model", BIAS, torch.full((16,), torch.nan)))
    with pytest.raises(SystemExit) as stop:
        script.main(flags.format(path=path, log=log).split())
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert f"{path} holds a broken model: {BIAS} is not finite" in error


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_with_the_prefixes_of_wrappers_are_the_same_model(log, prefix):
    expected = load_model(str(log)).state_dict()

    def add(checkpoint):
        model = {f"{prefix}{name}": w for name, w in checkpoint["model"].items()}
        return {**checkpoint, "model": model}

    path = change_newest(log, add)
    assert all(torch.equal(w, expected[n]) for n, w in load_model(str(path)).state_dict().items())


def test_a_weight_decay_that_is_typed_is_that_of_the_steps_that_follow(log):
    (log / "model_00004.pt").unlink()
    assert losses(resume(log, "--weight_decay", "0.7"))
    groups = torch.load(log / "model_00004.pt", weights_only=True)["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.7, 0.0]
