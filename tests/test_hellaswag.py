"""hellaswag.py: losses against hand-made and one-ending-at-a-time ones; bad files and networks."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import torch
from torch.nn import functional as F

import hellaswag
import train_gpt2
from support.cli import UserError
from support.compute import Compute
from support.tokenizer import get_encoding
from train_gpt2 import GPT, GPTConfig

DATA = Path(__file__).parent / "data" / "hellaswag_8.jsonl"
REAL_DATA = Path(__file__).parents[2] / "shared" / "data" / "hellaswag_val_1000.jsonl"
GOOD = {"ctx": "A boy ties his shoes. He", "endings": ["runs.", "is a lake.", "", "é"], "label": 0}


@pytest.fixture(autouse=True)
def one_thread():
    """With models this small, threads wait for each other, on a busy machine for minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Bigrams:
    """A stand-in for GPT whose next token depends on the last alone, by a table."""

    config = GPTConfig(block_size=16, vocab_size=4, n_layer=1)
    probs = torch.tensor(
        [
            [3 / 8, 1 / 4, 1 / 4, 1 / 8],  # after a: P(a), P(b), P(c), P(d)
            [1 / 4, 1 / 4, 1 / 4, 1 / 4],
            [1 / 8, 1 / 4, 1 / 2, 1 / 8],
            [1 / 4, 1 / 4, 1 / 4, 1 / 4],
        ]
    )

    def hidden(self, idx, pos=None, attends=None):
        return F.one_hot(idx, 4).float()

    def lm_head(self, x):
        return x @ self.probs.log()

    def __call__(self, idx):
        return self.lm_head(self.hidden(idx)), None


class Letters:
    """A stand-in for the encoding: a is 0, b is 1, and so on; spaces do not count."""

    def encode_ordinary(self, text):
        return ["abcd".index(letter) for letter in text.replace(" ", "")]


class FewIds:
    """GPT-2's encoding folded into 512 ids, for models that are quick."""

    encoding = get_encoding()

    def encode_ordinary(self, text):
        return [id % 512 for id in self.encoding.encode_ordinary(text)]


def tiny_gpt(block_size: int = 256, vocab_size: int = 512) -> GPT:
    """A small random model, its weights large enough for endings to differ."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size, vocab_size, n_layer=2, n_head=2, n_embd=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@torch.no_grad()
def one_by_one(model: GPT, questions: list[hellaswag.Question]) -> torch.Tensor:
    """What score() must give: each ending in a forward pass of its own, no padding, no mask."""
    sums = []
    for context, endings in questions:
        for ending in endings:
            tokens = torch.tensor([context + ending])
            logits = model(tokens[:, :-1])[0][0, len(context) - 1 :]  # (len(ending), vocab)
            sums.append(F.cross_entropy(logits, torch.tensor(ending), reduction="sum"))
    return torch.stack(sums).view(-1, 4)


def questions_of(path: Path, model: GPT, limit: int | None = None) -> list[hellaswag.Question]:
    examples, block_size = hellaswag.load_examples(path)[:limit], model.config.block_size
    rendered = [hellaswag.render(example, FewIds()) for example in examples]
    return [hellaswag.fit(context, endings, block_size) for context, endings, _ in rendered]


def answers(sums: torch.Tensor, questions: list[hellaswag.Question]) -> tuple[list, list]:
    """The endings chosen by sum and by mean."""
    lengths = torch.tensor([[len(ending) for ending in endings] for _, endings in questions])
    return sums.argmin(1).tolist(), (sums / lengths).argmin(1).tolist()


def assert_equals_one_by_one(path: Path, block_size: int, limit: int | None = None) -> None:
    model = tiny_gpt(block_size)
    questions = questions_of(path, model, limit)
    with torch.no_grad():
        sums = hellaswag.score(model, questions, "cpu")
    expected = one_by_one(model, questions)
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=1e-4)
    assert answers(sums, questions) == answers(expected, questions)


# ---------- What is computed ------------------------------------------------------------


def test_a_hand_made_example():
    questions = [([0], [[1], [1, 2], [2, 2, 2], [3]])]
    bits = hellaswag.score(Bigrams(), questions, "cpu") / math.log(2)
    # P(b|a) = 1/4: 2 bits; P(b|a) P(c|b) = 1/16: 4; P(c|a) P(c|c) P(c|c) = 1/16: 4; P(d|a): 3
    torch.testing.assert_close(bits, torch.tensor([[2.0, 4.0, 4.0, 3.0]]))


def evaluate_letters(labels: list[int]) -> tuple[int, int]:
    """One example again and again; its sums are 2, 4, 4, 3 bits, its means 2, 2, 4/3, 3."""
    example = {"ctx": "a", "endings": ["b", "b c", "c c c", "d"]}
    examples = [example | {"label": label} for label in labels]
    return hellaswag.evaluate(Bigrams(), examples, Letters(), "cpu")


def test_acc_takes_the_lowest_sum_and_acc_norm_the_lowest_mean():
    assert evaluate_letters([0]) == (1, 0)
    assert evaluate_letters([2]) == (0, 1)
    assert evaluate_letters([3]) == (0, 0)


@pytest.mark.parametrize("world_size", [2, 8])  # of 8 processes one has nothing to do
def test_the_slices_of_the_ranks_add_up(world_size):
    labels = [0, 0, 2, 0, 1, 2, 0]
    assert evaluate_letters(labels) == (4, 2)
    parts = [evaluate_letters(labels[rank::world_size]) for rank in range(world_size)]
    assert tuple(map(sum, zip(*parts))) == (4, 2)


def test_render_joins_context_and_ending_by_one_space():
    encoding = FewIds.encoding
    context, endings, label = hellaswag.render(GOOD, encoding)
    assert (len(endings), label) == (4, 0)
    for ids, ending in zip(endings, GOOD["endings"]):
        assert encoding.decode(context + ids) == GOOD["ctx"] + " " + ending


def test_fit_cuts_the_context_from_the_left_and_only_then_an_ending():
    context, endings = [1, 2, 3, 4, 5], [[6], [6, 7, 8], [6, 7], [6]]
    assert hellaswag.fit(context, endings, 7) == (context, endings)
    assert hellaswag.fit(context, endings, 6) == ([2, 3, 4, 5], endings)
    assert hellaswag.fit(context, endings, 3) == ([5], endings)
    assert hellaswag.fit(context, endings, 2) == ([5], [[6], [6, 7], [6, 7], [6]])


@pytest.mark.parametrize("block_size", [256, 16])
def test_scores_equal_those_of_one_ending_at_a_time(block_size):
    assert_equals_one_by_one(DATA, block_size)


@pytest.mark.skipif(not REAL_DATA.exists(), reason="no copy of HellaSwag beside the repository")
@pytest.mark.parametrize("block_size", [256, 64])
def test_scores_of_real_examples_equal_those_of_one_ending_at_a_time(block_size):
    assert_equals_one_by_one(REAL_DATA, block_size, limit=40)


def test_a_short_block_size_spreads_the_endings_over_rows():
    context, endings = [1, 2], [[5, 6, 7], [5, 6, 7], [5], [5, 6]]
    rows = hellaswag.pack(context, endings, 40, 5)
    tokens = [[token for token, _, _ in row.inputs] for row in rows]
    assert tokens == [[1, 2, 5, 6], [1, 2, 5, 6, 5]]
    assert [position for _, position, _ in rows[1].inputs] == [0, 1, 2, 3, 2]
    assert rows[1].predictions == [
        (1, 5, 41),
        (2, 6, 41),
        (3, 7, 41),  # of the second ending
        (1, 5, 42),
        (1, 5, 43),
        (4, 6, 43),
    ]
    assert len(hellaswag.pack(context, endings, 0, 256)) == 1


def test_an_ending_sees_the_context_and_itself():
    long = hellaswag.pack([1, 2], [[5, 6], [7], [8, 9], [3]], 0, 256)[0]
    short = hellaswag.pack([1], [[5], [7], [8], [3]], 4, 256)[0]
    mask = hellaswag.collate([long, short], "cpu")[2]
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],  # 5 sees the context
        [1, 1, 0, 1],  # and so does 8, but not 5
    ]
    assert mask[1, 0].any(1).all()  # the padding sees something: no softmax over nothing


def test_batches_hold_every_row_once_within_their_tokens():
    questions = questions_of(DATA, tiny_gpt())
    rows = [row for i, q in enumerate(questions) for row in hellaswag.pack(*q, 4 * i, 256)]
    batches = hellaswag.batches(rows, 200)
    assert sorted(map(id, sum(batches, []))) == sorted(map(id, rows))
    assert all(len(batch) * len(batch[0].inputs) <= 200 for batch in batches)
    longest = max(len(row.inputs) for row in rows)
    assert len(batches[0][0].inputs) == longest
    assert [len(batch) for batch in hellaswag.batches(rows, 1)] == [1] * len(rows)


def test_logits_exist_for_a_few_positions_at_a_time(monkeypatch):
    model, seen = tiny_gpt(), []
    model.lm_head.register_forward_hook(lambda _, __, logits: seen.append(logits.shape))
    questions = questions_of(DATA, model)
    whole = hellaswag.score(model, questions, "cpu")
    monkeypatch.setattr(hellaswag, "LOGIT_ROWS", 50)
    seen.clear()
    torch.testing.assert_close(hellaswag.score(model, questions, "cpu"), whole)
    num_tokens = sum(len(ending) for _, endings in questions for ending in endings)
    assert max(seen) == (50, 512)
    assert sum(rows for rows, _ in seen) == num_tokens  # and never for the context


def test_losses_are_in_fp32_under_autocast():
    model = tiny_gpt()
    questions = questions_of(DATA, model)
    with torch.no_grad():
        exact = hellaswag.score(model, questions, "cpu")
        with torch.autocast("cpu", torch.bfloat16):
            sums = hellaswag.score(model, questions, "cpu")
    assert sums.dtype == torch.float32
    torch.testing.assert_close(sums, exact, rtol=0.01, atol=0.0)


# ---------- Files -----------------------------------------------------------------------


def test_load_examples(tmp_path):
    assert len(hellaswag.load_examples(DATA)) == 8
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(GOOD | {"ind": 24}))
    assert hellaswag.load_examples(path) == [GOOD | {"ind": 24}]


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(GOOD)[:-20],
        json.dumps(GOOD, ensure_ascii=False).encode()[:-16],  # cut within a letter
        "",
        "[]",
        json.dumps({"ctx": "A boy", "label": 0}),
        json.dumps(GOOD | {"ctx": ""}),
        json.dumps(GOOD | {"endings": GOOD["endings"][:3]}),
        json.dumps(GOOD | {"endings": [1, 2, 3, 4]}),
        json.dumps(GOOD | {"label": 4}),
        json.dumps(GOOD | {"label": "0"}),
        json.dumps(GOOD | {"label": True}),
        json.dumps(GOOD | {"label": 1.0}),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2 .*--data"):
        hellaswag.load_examples(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UserError, match=r"pipe\.jsonl .a folder or a pipe, not a file.: .*--data"):
        hellaswag.load_examples(tmp_path / "pipe.jsonl")


def test_a_file_that_is_empty_or_not_there(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="is empty.*--data"):
        hellaswag.load_examples(tmp_path / "empty.jsonl")
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot read.*--data"):
            hellaswag.load_examples(path)


def answer(monkeypatch, content: bytes, status_code: int = 200) -> None:
    """Make the network give this answer."""
    response = SimpleNamespace(content=content, status_code=status_code)
    monkeypatch.setattr(requests.Session, "get", lambda self, url, timeout: response)


def test_download(tmp_path, monkeypatch):
    content = b"{}\n" * hellaswag.NUM_EXAMPLES
    answer(monkeypatch, content)
    path = hellaswag.download(tmp_path / "new")
    assert path == tmp_path / "new" / "hellaswag_val.jsonl"
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    answer(monkeypatch, b"", 500)
    assert hellaswag.download(path.parent) == path  # without asking again


@pytest.mark.parametrize(
    "content, status_code, found",
    [
        (b"sorry", 500, "status 500"),
        (b"{}\n" * 10041, 200, "10041 lines, expected 10042"),
        (b"<html>log in first</html>", 200, "1 lines, expected 10042"),
    ],
)
def test_a_bad_download_leaves_nothing(tmp_path, monkeypatch, content, status_code, found):
    answer(monkeypatch, content, status_code)
    with pytest.raises(UserError, match=f"{found}.*put a copy"):
        hellaswag.download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path, monkeypatch):
    def get(self, url, timeout):
        raise requests.ConnectionError("a long story")

    monkeypatch.setattr(requests.Session, "get", get)
    with pytest.raises(UserError, match=r"cannot reach .*\(ConnectionError\).*put a copy"):
        hellaswag.download(tmp_path)


# ---------- The command -----------------------------------------------------------------


def test_main(monkeypatch, capsys):
    model = tiny_gpt(vocab_size=50257)
    monkeypatch.setattr(train_gpt2, "load_model", lambda name: model, raising=False)
    hellaswag.main(["--model", "tiny", "--data", str(DATA), "--device", "cpu", "--limit", "6"])
    examples = hellaswag.load_examples(DATA)[:6]
    acc, acc_norm = hellaswag.evaluate(model, examples, FewIds.encoding, "cpu")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"acc: {acc}/6={acc / 6:.4f}",
        f"acc_norm: {acc_norm}/6={acc_norm / 6:.4f}",
    ]


def test_device_and_dtype_are_the_given_ones(monkeypatch):
    given = []

    def start_compute(*where):
        given.append(where)
        raise UserError("far enough")

    monkeypatch.setattr(hellaswag, "start_compute", start_compute)
    with pytest.raises(SystemExit):
        hellaswag.main(["--data", str(DATA), "--device", "cpu", "--dtype", "bfloat16"])
    assert given == [("cpu", "bfloat16")]


@pytest.mark.parametrize("argv", [["--data", "none.jsonl"], ["--data", str(DATA), "--limit", "0"]])
def test_mistakes_get_one_line_and_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        hellaswag.main(argv)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert captured.out == ""


def test_in_training_it_is_skipped_with_one_line_where_it_cannot_be_had(
    monkeypatch, tmp_path, capsys
):
    def refused(*_, **__):
        raise requests.ConnectionError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(requests.Session, "get", refused)
    assert hellaswag.share(Compute("cpu")) is None
    out = capsys.readouterr().out
    assert out.startswith("HellaSwag is skipped: cannot reach") and out.count("\n") == 1


def test_in_training_each_process_has_its_share(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hellaswag").mkdir()
    (tmp_path / "hellaswag" / "hellaswag_val.jsonl").write_bytes(DATA.read_bytes())
    monkeypatch.setattr(Compute, "sum", lambda self, numbers: numbers)  # of this process alone
    monkeypatch.setattr(Compute, "barrier", lambda self: None)
    shares = [hellaswag.share(Compute("cpu", rank=rank, world_size=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    assert sorted(e["ctx"] for share in shares for e in share) == sorted(
        e["ctx"] for e in hellaswag.load_examples(DATA)
    )


def test_evaluation_keeps_nothing_for_a_backward_pass():
    model, kept = tiny_gpt(), []
    model.lm_head.register_forward_hook(lambda _, __, out: kept.append(out.requires_grad))
    hellaswag.evaluate(model, hellaswag.load_examples(DATA)[:1], FewIds(), "cpu")
    assert kept and not any(kept)
