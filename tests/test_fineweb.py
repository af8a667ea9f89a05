"""fineweb.py: the shards' exact bytes, resuming after a kill, and what bad input gets."""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fineweb
from support.tokenizer import EOT, get_encoding

ROOT = Path(__file__).parents[1]

WORDS = [
    "the",
    " model",
    " learns",
    "\n\n",
    " naïve",
    " 中文",
    "👩‍👧",
    " 1984",
    "'s",
    " I'll",
    "  ",
    ".",
]


def make_texts(count, seed=0):
    rng = random.Random(seed)
    return ["".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(count)]


def write_source(folder, files, row_group_size=100):
    """files: name -> texts; parquet has another column too, jsonl has blank lines."""
    folder.mkdir(exist_ok=True)
    for name, texts in files.items():
        if name.endswith(".parquet"):
            table = pa.table({"id": list(range(len(texts))), "text": pa.array(texts, pa.string())})
            pq.write_table(table, folder / name, row_group_size=row_group_size)
        else:
            lines = [json.dumps({"text": t, "id": n}) + "\n\n" for n, t in enumerate(texts)]
            (folder / name).write_text("".join(lines))
    return folder


def reference(texts):
    """The stream as the obvious loop makes it."""
    encoding, stream = get_encoding(), []
    for text in texts:
        stream += [EOT] + encoding.encode_ordinary(text)
    return np.array(stream)


def check_shards(out, stream, size):
    names = sorted(path.name for path in out.glob("*.npy"))
    count = -(-len(stream) // size)
    assert sorted(names, key=lambda n: n[-10:]) == [
        f"edufineweb_{'train' if i else 'val'}_{i:06d}.npy" for i in range(count)
    ]
    for i in range(count):
        shard = np.load(out / f"edufineweb_{'train' if i else 'val'}_{i:06d}.npy")
        assert shard.dtype == np.uint16 and shard.ndim == 1
        assert np.array_equal(shard, stream[i * size : (i + 1) * size])
    assert not list(out.glob("*.tmp"))


def run(source, out, size, *flags):
    fineweb.main(
        [
            "--source",
            str(source),
            "--out",
            str(out),
            "--shard_size",
            str(size),
            "--nprocs",
            "2",
            *flags,
        ]
    )


def fails(capsys, *flags):
    """The one line of a run that must end with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        fineweb.main(list(map(str, flags)))
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Three files whose order by name is b.jsonl, c.parquet, d.parquet; and all their texts."""
    texts = make_texts(700)
    texts[3] = texts[150] = texts[699] = ""
    texts[5] = "before<|endoftext|>after <|endoftext|>"
    texts[160] = " ".join(make_texts(100, seed=1))  # longer than many of the shards below
    files = {"c.parquet": texts[150:450], "d.parquet": texts[450:], "b.jsonl": texts[:150]}
    return write_source(tmp_path_factory.mktemp("mixed"), files), texts


@pytest.fixture(scope="module")
def stream(mixed):
    return reference(mixed[1])


@pytest.fixture(params=["tiktoken", "gigatoken"])
def tokenized_by(request, monkeypatch):
    if request.param == "gigatoken":
        pytest.importorskip("gigatoken")
    else:
        monkeypatch.setitem(sys.modules, "gigatoken", None)
    return request.param


@pytest.mark.parametrize("size", [777, 5000, 12345])
def test_shards_are_the_stream(mixed, stream, tmp_path, size, tokenized_by, capsys):
    run(mixed[0], tmp_path / "out", size)
    check_shards(tmp_path / "out", stream, size)
    printed = capsys.readouterr()
    assert f"with {tokenized_by} on 2 threads" in printed.out
    bars = re.findall(r"(\d+)%\|", printed.out)
    assert bars[-1] == "100" and printed.err == ""
    assert re.search(
        rf": 700 documents, {len(stream):,} tokens, {-(-len(stream) // size):,} "
        r"shards, [\d.]+ seconds$",
        printed.out.strip(),
    )


def test_shards_end_where_documents_end(tmp_path):
    texts = ["one two three"] * 40  # EOT + 3 tokens
    source = write_source(tmp_path / "s", {"a.parquet": texts[:20], "b.parquet": texts[20:]})
    run(source, tmp_path / "whole", 40)
    check_shards(tmp_path / "whole", reference(texts), 40)
    for shards in range(1, 5):
        run(source, tmp_path / "steps", 40, "--shards", str(shards))
        assert json.loads((tmp_path / "steps/progress.json").read_text())["used"] == 0
    check_shards(tmp_path / "steps", reference(texts), 40)


def test_traps(tmp_path, tokenized_by):
    """What the two tokenizers could see differently: both must give tiktoken's ids."""
    newer_letter, half_pair = "\U00032c43", "\ud83d"
    texts = [
        newer_letter + "'s",
        f"x {newer_letter}'ll",
        half_pair,
        f"a{half_pair}b",
        "<|endoftext|>",
        "<|endoftext|>" * 3,
        "",
        "",
        " \u00a0\u3000\n",
        "\x00",
        "a" * 5000,
        "\n" * 5000,
    ]
    source = write_source(tmp_path / "s", {"a.jsonl": texts * 3})
    run(source, tmp_path / "out", 1000)
    check_shards(tmp_path / "out", reference(texts * 3), 1000)


@pytest.mark.parametrize("shards", [1, 3])
def test_stops_early_and_goes_on(mixed, stream, tmp_path, capsys, monkeypatch, shards):
    out, read = tmp_path / "out", []
    original = fineweb.read_chunks

    def read_chunks(*args):
        for chunk in original(*args):
            read.append(chunk.file)
            yield chunk

    monkeypatch.setattr(fineweb, "read_chunks", read_chunks)
    monkeypatch.setattr(fineweb, "sample_documents", lambda files: ["a"])
    monkeypatch.setattr(fineweb, "CHUNK", 20)
    run(mixed[0], out, 2000, "--shards", str(shards))
    check_shards(out, stream[: 2000 * shards], 2000)
    assert 2 not in read  # d.parquet was not touched
    assert re.findall(r"(\d+)%\|", capsys.readouterr().out)[-1] == "100"
    begun = np.sum(stream[: 2000 * shards] == EOT)
    run(mixed[0], out, 2000, "--shards", str(shards))
    again = capsys.readouterr().out
    assert "nothing to do" in again and f"{begun:,} documents, {2000 * shards:,} tokens" in again
    run(mixed[0], out, 2000)
    check_shards(out, stream, 2000)
    assert f"700 documents, {len(stream):,} tokens" in capsys.readouterr().out


def test_more_shards_wanted_than_there_are(mixed, stream, tmp_path, capsys):
    run(mixed[0], tmp_path / "out", 10000, "--shards", "999")
    check_shards(tmp_path / "out", stream, 10000)
    assert re.findall(r"(\d+)%\|", capsys.readouterr().out)[-1] == "100"


SCRIPT = """
import multiprocessing, os, sys, time
sys.path.insert(0, {root!r})
import fineweb

def hang_at(place):
    replace, seen = os.replace, []
    def replace_or_hang(temporary, path):
        seen.append(os.path.basename(path))
        shards = sum(name.endswith(".npy") for name in seen)
        if shards == 4 and place == ("shard" if seen[-1].endswith(".npy") else "progress"):
            print("HANGS", flush=True)
            time.sleep(100)
        replace(temporary, path)
    os.replace = replace_or_hang

if __name__ == "__main__":
    if sys.argv[1] in ("shard", "progress"):
        hang_at(sys.argv[1])
    else:
        multiprocessing.set_start_method(sys.argv[1])
    fineweb.main(sys.argv[2:])
"""


def start_script(tmp_path, how, source, out):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    return subprocess.Popen(
        [
            sys.executable,
            str(script),
            how,
            "--source",
            str(source),
            "--out",
            str(out),
            "--shard_size",
            "2000",
            "--nprocs",
            "2",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_methods(mixed, stream, tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    process = start_script(tmp_path, method, mixed[0], tmp_path / "out")
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == ""
    check_shards(tmp_path / "out", stream, 2000)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")
@pytest.mark.parametrize("place", ["shard", "progress"])
def test_kill_and_run_again(mixed, stream, tmp_path, place, capsys):
    """Killed just before the fourth shard, or the progress after it, gets its name."""
    out = tmp_path / "out"
    process = start_script(tmp_path, place, mixed[0], out)
    while "HANGS" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(list(out.glob("*.npy"))) == (3 if place == "shard" else 4)
    assert list(out.glob("*.tmp"))
    kept = out / "edufineweb_train_000001.npy"
    before = kept.stat().st_mtime_ns
    run(mixed[0], out, 2000)
    check_shards(out, stream, 2000)
    assert kept.stat().st_mtime_ns == before
    printed = capsys.readouterr().out
    assert "after shard 3" in printed and f"700 documents, {len(stream):,} tokens" in printed


def test_gigatoken_that_differs_is_not_used(mixed, stream, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fineweb.Gigatoken, "load", lambda self: None)
    monkeypatch.setattr(
        fineweb.Gigatoken,
        "__call__",
        lambda self, texts: self.reference([t.replace("naïve", "naive") for t in texts]),
    )
    run(mixed[0], tmp_path / "out", 5000)
    check_shards(tmp_path / "out", stream, 5000)
    printed = capsys.readouterr().out
    assert len(re.findall("without gigatoken.*differs", printed)) == 1


def test_gigatoken_that_fails_is_not_used(mixed, stream, tmp_path, monkeypatch, capsys):
    def fail(self):
        raise RuntimeError("no such\ninstruction")

    monkeypatch.setattr(fineweb.Gigatoken, "load", fail)
    run(mixed[0], tmp_path / "out", 5000)
    check_shards(tmp_path / "out", stream, 5000)
    assert "without gigatoken (it failed: RuntimeError: no such)" in capsys.readouterr().out


def test_gigatoken_forgets_now_and_then(mixed, stream, tmp_path, monkeypatch):
    pytest.importorskip("gigatoken")
    loads, original = [], fineweb.Gigatoken.load

    def load(self):
        loads.append(1)
        original(self)

    monkeypatch.setattr(fineweb.Gigatoken, "max_characters", 1000)
    monkeypatch.setattr(fineweb.Gigatoken, "load", load)
    run(mixed[0], tmp_path / "out", 5000)
    check_shards(tmp_path / "out", stream, 5000)
    assert len(loads) > 2


def test_reader_stays_close_to_the_writer(monkeypatch):
    read = []

    def chunks():
        for n in range(100):
            read.append(n)
            yield fineweb.Chunk(0, n, ["a"], 0)

    for chunk, _ in fineweb.encode_in_order(chunks(), lambda texts: np.zeros(1), threads=2):
        assert len(read) - chunk.document <= 2 * fineweb.IN_FLIGHT
    assert chunk.document == 99


def test_other_runs_folders_are_refused(mixed, tmp_path, capsys):
    out = tmp_path / "out"
    run(mixed[0], out, 5000, "--shards", "2")
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    flags = ["--out", out, "--source"]
    other = write_source(tmp_path / "other", {"b.jsonl": ["some text"] * 9})
    assert "delete the folder" in fails(capsys, *flags, other, "--shard_size", 5000)
    assert "--shard_size 5000" in fails(capsys, *flags, mixed[0], "--shard_size", 6000)
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    (out / "edufineweb_val_000000.npy").unlink()
    assert "val_000000.npy is missing" in fails(capsys, *flags, mixed[0], "--shard_size", 5000)
    (out / "progress.json").write_text("{")
    assert "cannot be read" in fails(capsys, *flags, mixed[0], "--shard_size", 5000)
    (out / "progress.json").unlink()
    assert "no progress.json" in fails(capsys, *flags, mixed[0], "--shard_size", 5000)


@pytest.mark.parametrize("spare", [0, 1])
def test_source_without_a_train_shard(tmp_path, capsys, spare):
    texts = make_texts(50)
    source, total = write_source(tmp_path / "s", {"a.parquet": texts}), len(reference(texts))
    line = fails(
        capsys, "--source", source, "--out", tmp_path / "out", "--shard_size", total + spare
    )
    assert f"{total:,} tokens" in line and line.endswith(f"--shard_size {total // 10}")
    assert not (tmp_path / "out").exists()
    run(source, tmp_path / "out", total // 10)
    check_shards(tmp_path / "out", reference(texts), total // 10)


def test_bad_sources(tmp_path, capsys, monkeypatch):
    flags = ["--out", tmp_path / "out", "--shard_size", 10, "--source"]
    assert "no folder" in fails(capsys, *flags, tmp_path / "nothing")
    assert "no .parquet or .jsonl" in fails(capsys, *flags, write_source(tmp_path / "empty", {}))
    column = tmp_path / "column"
    column.mkdir()
    pq.write_table(pa.table({"content": ["a"]}), column / "a.parquet")
    assert "no column `text`, only content" in fails(capsys, *flags, column)
    (column / "a.parquet").write_bytes(b"PAR1 cut")
    assert "not a readable parquet" in fails(capsys, *flags, column)
    assert "the source holds no text" in fails(
        capsys, *flags, write_source(tmp_path / "none", {"a.parquet": []})
    )
    for name, line in {"field": '{"content": 1}', "cut": '{"text": "a', "list": "[1]"}.items():
        source = write_source(tmp_path / name, {})
        (source / "a.jsonl").write_text('{"text": "fine"}\n' + line)
        assert "document 2 is not a JSON object with" in fails(capsys, *flags, source)
    source = write_source(tmp_path / "null", {"a.parquet": ["a", None]})
    assert "the text of document 2 is None" in fails(capsys, *flags, source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--shard_size", "0"], "shard_size: expected a whole number of 1 or more"),
        (["--shards", "-1"], "shards"),
        (["--nprocs", "two"], "'two'"),
        (["--outt", "x"], "--outt"),
    ],
)
def test_bad_flags(capsys, flags, said):
    assert said in fails(capsys, *flags)


def test_no_network(tmp_path, capsys, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*args, **kwargs):
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(hub.utils, "http_backoff", refuse)
    line = fails(capsys, "--out", tmp_path / "out")
    assert "(Name or service not known)" in line and "local folder" in line


def test_hub_dataset(mixed, tmp_path, capsys, monkeypatch):
    """Only the named folder's parquet files are asked for, all at one revision."""
    hub = pytest.importorskip("huggingface_hub")
    names = ["README.md", "x/s/a.parquet", "x/s/b.parquet", "x/big/a.parquet"]
    info, asked = {"siblings": [{"rfilename": name} for name in names], "sha": "abc"}, []
    response = type("Response", (), {"json": lambda self: info})
    monkeypatch.setattr(hub.utils, "http_backoff", lambda *args, **how: response())
    monkeypatch.setattr(hub.utils, "hf_raise_for_status", lambda response: None)

    def download(name, path, repo_type, revision):
        asked.append((name, path, repo_type, revision))
        return str(tmp_path / path)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert fineweb.download("o/n/x/s") == tmp_path / "x/s"
    assert asked == [("o/n", name, "dataset", "abc") for name in names[1:3]]
    assert "only in ['x/big', 'x/s']" in fails(capsys, "--source", "o/n", "--out", tmp_path / "out")


def test_web_sample_if_it_is_there(tmp_path, capsys, monkeypatch):
    sample = ROOT.parent / "shared/data/web_sample"
    if not sample.is_dir():
        pytest.skip("no web sample beside the repository")
    run(sample, tmp_path / "a", 200_000, "--shards", "2")
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    run(sample, tmp_path / "b", 200_000, "--shards", "2")
    for name in ("edufineweb_val_000000.npy", "edufineweb_train_000001.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    "file, document", [(0, 0), (0, 149), (1, 0), (1, 10), (1, 100), (1, 299), (2, 7)]
)
def test_reading_can_begin_at_any_document(mixed, file, document):
    chunks = list(fineweb.read_chunks(fineweb.find_files(str(mixed[0])), file, document))
    texts = [text for chunk in chunks for text in chunk.texts]
    assert (chunks[0].file, chunks[0].document) == (file, document)
    assert texts == mixed[1][(0, 150, 450)[file] + document :]
