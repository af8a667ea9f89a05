"""Folders of Hugging Face's that hold another model than GPT-2, or a damaged one: one line."""

import json
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_data_faults import MUTATORS, hub_at, impatient, seconds, server, status, whole
from transformers import GPT2Config, GPT2LMHeadModel

import export
import hellaswag
import sample
import train_gpt2
from support import hugging_face
from support.cli import UserError
from tiny import ROOT, logits
from train_gpt2 import GPT, load_model

__all__ = ["hub_at", "impatient"]  # fixtures
VOCAB, WTE, HEAD, BIAS = 101, "transformer.wte.weight", "lm_head.weight", "transformer.ln_f.bias"


def write_gpt2(folder: Path, **changes) -> GPT2LMHeadModel:
    """A GPT-2 of 2 layers with large random weights, as save_pretrained writes it."""
    torch.manual_seed(0)
    shape = dict(vocab_size=VOCAB, n_positions=24, n_layer=2, n_head=2, n_embd=16)
    model = GPT2LMHeadModel(GPT2Config(**{**shape, **changes})).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    write_gpt2(folder)
    return folder


@pytest.fixture
def folder(plain, tmp_path) -> Path:
    """A copy of it that can be spoiled."""
    return shutil.copytree(plain, tmp_path / "hf")


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@torch.no_grad()
def difference(ours: GPT, theirs: GPT2LMHeadModel) -> float:
    """The largest one between the logits, in units of their std."""
    idx = torch.randint(0, VOCAB, (2, 24))
    expected = theirs(idx).logits
    return ((logits(ours, idx) - expected).abs().max() / expected.std()).item()


# ---------- Another model ---------------------------------------------------------------

SAME = [
    {},
    {"n_inner": 64},
    {"reorder_and_upcast_attn": True},  # says only in which dtype scores are summed
    *({"activation_function": name} for name in hugging_face.GPT2["activation_function"]),
]


@pytest.mark.parametrize("config", SAME, ids=str)
def test_what_computes_the_same_is_loaded(tmp_path, config):
    theirs = write_gpt2(tmp_path, **config)
    assert difference(GPT.from_pretrained(str(tmp_path)), theirs) < 1e-5


OTHERS = [
    ("activation_function", "relu", "'relu', expected GPT-2's gelu_new or"),
    ("activation_function", "gelu", "'gelu', expected GPT-2's gelu_new or"),
    ("layer_norm_epsilon", 1e-2, "0.01, expected GPT-2's 1e-05"),
    ("scale_attn_weights", False, "False, expected GPT-2's True"),
    ("scale_attn_by_inverse_layer_idx", True, "True, expected GPT-2's False"),
]


@pytest.mark.parametrize("field, value, said", OTHERS)
def test_what_computes_something_else_is_refused_by_its_field(tmp_path, field, value, said):
    theirs = write_gpt2(tmp_path, **{field: value})
    with pytest.raises(UserError, match=f"config.json has {field} {said}"):
        load_model(str(tmp_path))
    change_config(tmp_path, **{field: getattr(GPT2Config(), field)})
    assert difference(load_model(str(tmp_path)), theirs) > 1e-4  # so it had to be


def test_a_head_of_its_own_is_refused(tmp_path):
    theirs = write_gpt2(tmp_path, tie_word_embeddings=False)
    with pytest.raises(UserError, match="its head is not its token embedding"):
        load_model(str(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    save_file({n: w for n, w in weights.items() if n != HEAD}, tmp_path / "model.safetensors")
    assert difference(load_model(str(tmp_path)), theirs) > 1


@pytest.mark.parametrize(
    "config", [{"n_inner": 32}, {"add_cross_attention": True}, {"model_type": "gpt_neo"}], ids=str
)
def test_another_architecture_is_refused(folder, config):
    change_config(folder, **config)
    with pytest.raises(UserError, match=f"config.json has {next(iter(config))} .*, expected"):
        load_model(str(folder))


COMMANDS = [
    (train_gpt2, "--device cpu --init_from {folder} --log_dir {new}"),
    (sample, "{folder} --device cpu"),
    (hellaswag, f"--model {{folder}} --device cpu --data {ROOT}/tests/data/hellaswag_8.jsonl"),
]


@pytest.mark.parametrize("script, flags", COMMANDS)
@pytest.mark.parametrize("field", ["activation_function", "n_embd"])
def test_each_command_ends_with_one_line(folder, script, flags, field, capsys):
    change_config(folder, **{field: "relu"})
    with pytest.raises(SystemExit) as stop:
        script.main(flags.format(folder=folder, new=folder.parent / "new").split())
    told = capsys.readouterr()
    assert stop.value.code == 2 and told.out == "" and told.err.count("\n") == 1
    assert f"{folder}/config.json has {field} 'relu', expected" in told.err


def test_export_says_what_it_is(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        export.main([str(folder), str(tmp_path / "out")])
    assert stop.value.code == 2
    assert f"{folder} is a folder of Hugging Face's already" in capsys.readouterr().err


# ---------- A damaged one ---------------------------------------------------------------

CONFIGS = {
    "": "JSONDecodeError",
    "hello": "JSONDecodeError",
    "[1]": r"holds \[1\], expected the JSON",
    "null": "holds None, expected",
    "[" * 10_000: "RecursionError",
    '{"n_layer": ' * 10_000: "RecursionError",
    '{"n_layer": ' + "9" * 5000 + "}": "ValueError",
    "{}": "has block_size None, expected a whole number from 1 on",
}


@pytest.mark.parametrize("text", CONFIGS, ids=lambda text: text[:12])
def test_a_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    with seconds(5), pytest.raises(UserError, match=f"^[^\n]*config.json[^\n]*{CONFIGS[text]}"):
        load_model(str(folder))


NUMBERS = {"a text": "2", "a bool": True, "a fraction": 2.5, "nothing": None, "zero": 0}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("field", hugging_face.FIELDS.values())
def test_a_config_with_other_things_than_numbers(folder, field, name):
    change_config(folder, **{field: NUMBERS[name]})
    with pytest.raises(UserError, match=r"config\.json has .*, expected a whole number"):
        load_model(str(folder))


@pytest.mark.parametrize("field", ["vocab_size", "n_positions", "n_layer", "n_embd"])
@pytest.mark.parametrize("value", [8, 10**9, 10**400])
def test_weights_of_another_shape(folder, field, value):
    change_config(folder, **{field: value})
    with seconds(5), pytest.raises(UserError, match="weights of its config: |is not a GPT-2: "):
        load_model(str(folder))


def test_heads_that_do_not_divide_the_width(folder):
    change_config(folder, n_head=3)
    with pytest.raises(UserError, match="has n_embd 16, which its n_head 3 does not divide"):
        load_model(str(folder))


def without(name: str):
    return lambda weights: {n: w for n, w in weights.items() if n != name}


def also(name: str, tensor: torch.Tensor):
    return lambda weights: {**weights, name: tensor}


TENSORS = {
    "one too few": (without(BIAS), f"{BIAS} is missing"),
    "one too many": (also("x", torch.ones(1)), "holds 'transformer.x', which GPT-2 has not"),
    "another shape": (also(BIAS, torch.ones(15)), r"is float32 of shape \[15\], expected"),
    "whole numbers": (also(BIAS, torch.ones(16, dtype=torch.int64)), "is int64 of shape"),
    "NaN": (also(BIAS, torch.full((16,), torch.nan)), f"a broken model: {BIAS} is not finite"),
    "another head": (also(HEAD, torch.ones(VOCAB, 16)), "its head is not its token embedding"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_weights_that_are_not_gpt_2_s(folder, name):
    change, said = TENSORS[name]
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(UserError, match=f"^{folder}[^\n]* {said}[^\n]*$"):
        load_model(str(folder))


@pytest.mark.parametrize("left", [0, 5, 100, -5])
def test_safetensors_that_are_cut(folder, left):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match="model.safetensors is damaged"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda folder: (folder / "config.json").unlink(), "found no .*config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: os.replace(folder / "model.safetensors", folder / "a"), "has no weights"),
    ],
)
def test_a_file_that_is_absent(folder, spoil, said):
    spoil(folder)
    with pytest.raises(UserError, match=said):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with seconds(5), pytest.raises(UserError, match="found no|has no weights"):
        load_model(str(folder))


class Runs:
    """An object whose pickle says: make this folder."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def pickled(folder: Path, write) -> Path:
    """pytorch_model.bin in the place of model.safetensors."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write(weights, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def test_weights_in_a_pickle_are_read(folder, plain):
    pickled(folder, torch.save)
    expected = load_model(str(plain)).state_dict()
    assert all(torch.equal(w, expected[n]) for n, w in load_model(str(folder)).state_dict().items())


@pytest.mark.parametrize("is_zip", [True, False])
def test_no_code_of_a_pickle_is_run(folder, tmp_path, is_zip, recwarn):
    def write(weights, path):
        content = {**weights, "x": Runs(tmp_path / "it ran")}
        torch.save(content, path) if is_zip else path.write_bytes(pickle.dumps(content))

    pickled(folder, write)
    with pytest.raises(UserError, match="pytorch_model.bin is damaged, or holds more than tensors"):
        load_model(str(folder))
    assert not (tmp_path / "it ran").exists() and not recwarn.list


@pytest.mark.parametrize("content", [[1, 2], "x", {"a": 1}, {BIAS: "x"}], ids=str)
def test_a_pickle_of_other_things(folder, content):
    pickled(folder, lambda weights, path: torch.save(content, path))
    with pytest.raises(UserError, match="is damaged, or holds more|weights of its config"):
        load_model(str(folder))


# ---------- Formats that are read -------------------------------------------------------


def same_model(folder: Path, plain: Path) -> bool:
    expected = load_model(str(plain)).state_dict()
    return all(torch.equal(w, expected[n]) for n, w in load_model(str(folder)).state_dict().items())


def test_several_files(folder, plain):
    (folder / "model.safetensors").unlink()
    theirs = GPT2LMHeadModel.from_pretrained(plain)
    theirs.save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1 and same_model(folder, plain)
    next(folder.glob("model-00001*")).unlink()
    with pytest.raises(UserError, match="is missing, expected"):
        load_model(str(folder))


def test_names_as_openai_s_weights_have_them(folder, plain):
    """Without a prefix, and with the causal masks."""
    path = folder / "model.safetensors"
    weights = {n.removeprefix("transformer."): w for n, w in load_file(path).items()}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 24, 24) for layer in (0, 1)}
    save_file({**weights, **masks}, path)
    assert same_model(folder, plain)


def test_a_model_by_its_name_comes_from_the_hub(plain, hub_at):
    sha = "0123456789" * 4

    def answer(request):
        name = request.path.rpartition("/")[2]
        content = (plain / name).read_bytes() if name else b""  # the hub itself: is it there?
        if request.command == "HEAD":
            size = str(len(content))
            status(200, Content_Length=size, X_Repo_Commit=sha, ETag=f'"{name}"')(request)
        else:
            whole(request, content)

    with server(answer) as address, seconds(10):
        hub_at(address)
        assert same_model("gpt2", plain)


def test_loading_and_exporting_say_nothing(folder, capfd):
    load_model(str(folder))
    assert capfd.readouterr() == ("", "")


# ---------- Mutations -------------------------------------------------------------------


def mutations(folder: Path, name: str, seeds: range) -> Counter:
    """How loading ends: "right", "error" (one line), or with "other" numbers: neither file has a
    checksum."""
    path, ends = folder / name, Counter()
    original, expected = path.read_bytes(), load_model(str(folder))
    for seed in seeds:
        rng = Random(seed)
        mutate = rng.choice(MUTATORS)
        path.write_bytes(mutate(original, rng))
        case = f"{name}, {mutate.__name__}, seed {seed}"
        try:
            with seconds(20):
                model = load_model(str(folder))
        except UserError as error:
            assert "\n" not in str(error) and str(folder) in str(error), case
            ends["error"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"{case}: {error!r:.200}") from error
        weights = model.state_dict().items()
        is_right = model.config == expected.config and all(
            torch.equal(w, expected.state_dict()[n]) for n, w in weights
        )
        ends["right" if is_right else "other"] += 1
    return ends


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_mutations(folder, name):
    assert mutations(folder, name, range(60))["error"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_many_mutations(folder, name, capsys):
    ends = mutations(folder, name, range(3000))
    with capsys.disabled():
        print(f"\n{name:20} {sum(ends.values())} tried:", dict(ends))
