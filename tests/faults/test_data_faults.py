"""Damaged shards and sources, networks that fail, files that are not what they should be."""

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fineweb
import hellaswag
import support.shards
from support import network
from support.cli import UserError
from support.files import write_whole
from support.shards import MANIFEST, add_to_manifest, load_shard, load_split, verify
from test_fineweb import check_shards, fails, make_texts, reference, run, write_source

TEXTS = make_texts(300)
STREAM = reference(TEXTS)
SIZE = 1500  # tokens in a shard


@pytest.fixture(autouse=True)
def without_gigatoken(monkeypatch):
    """Loading it takes longer than these few texts."""
    monkeypatch.setitem(sys.modules, "gigatoken", None)


@contextmanager
def seconds(limit: int):
    """What is still running then gets an exception instead of hanging."""

    def stop(*_):
        raise AssertionError(f"it hangs: {limit} s are over")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "s", {"a.jsonl": TEXTS[:150], "b.parquet": TEXTS[150:]})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def flags(source, out):
    return "--source", source, "--out", out, "--shard_size", SIZE


def flip(path: Path, position: int) -> None:
    """The lowest bit of one byte."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# ---------- What fineweb.py wrote, and where from ---------------------------------------


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum here")
def test_sha256sum_checks_the_shards(source, out):
    run(source, out, SIZE)
    command = ["sha256sum", "--strict", "-c", MANIFEST]
    checked = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stderr == ""
    assert checked.stdout.count(".npy: OK") == len(list(out.glob("*.npy")))


def test_one_flipped_bit_is_found_in_any_shard(source, out, capsys):
    run(source, out, SIZE, "--shards", "3")
    fineweb.main(["--out", str(out), "--verify"])
    assert "3 shards, each as it was written" in capsys.readouterr().out
    for path in out.glob("*.npy"):
        flip(path, -1)
        for asked in (("--out", out, "--verify"), flags(source, out)):
            line = fails(capsys, *asked)
            assert path.name in line and "not what was written" in line
        flip(path, -1)
    run(source, out, SIZE)
    check_shards(out, STREAM, SIZE)


def test_shards_from_elsewhere_have_no_manifest(tmp_path, capsys):
    np.save(tmp_path / "edufineweb_train_000001.npy", np.zeros(9, dtype=np.uint16))
    assert verify(tmp_path) == 0
    assert f"no {MANIFEST} in" in fails(capsys, "--out", tmp_path, "--verify")


def test_a_damaged_manifest_is_named(source, out, capsys):
    run(source, out, SIZE)
    with (out / MANIFEST).open("a") as file:
        file.write("0123  a.npy\n")
    assert f"{MANIFEST}, line" in fails(capsys, "--out", out, "--verify")
    lines = (out / MANIFEST).read_text().splitlines(keepends=True)
    (out / MANIFEST).write_text("".join(lines[:2] + lines[3:-1]))
    lacks = f"{MANIFEST} lacks edufineweb_train_000003.npy"
    for asked in (("--out", out, "--verify"), flags(source, out)):
        assert lacks in fails(capsys, *asked)
    (out / MANIFEST).unlink()
    assert f"{MANIFEST} lacks" in fails(capsys, *flags(source, out))


def test_stopped_before_any_of_its_files_gets_its_name(tmp_path, out, monkeypatch):
    """Then the same command again: the bytes and the manifest are those of an unbroken run."""
    replace, left = os.replace, 0

    def stop_in_time(temporary, path):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", stop_in_time)
    source = write_source(tmp_path / "s", {"a.jsonl": TEXTS[:40]})
    for stop_after in range(100):
        shutil.rmtree(out, ignore_errors=True)
        left = stop_after
        try:
            run(source, out, SIZE)
            break
        except SystemExit:
            left = 100
            run(source, out, SIZE)
            check_shards(out, reference(TEXTS[:40]), SIZE)
            assert verify(out) == len(list(out.glob("*.npy")))
    shards = len(list(out.glob("*.npy")))
    assert stop_after == 1 + 3 * shards  # progress; each shard, its sum, progress


def test_a_source_edited_at_the_same_size_is_not_mixed_in(source, out, capsys):
    run(source, out, SIZE, "--shards", "1")
    kept = (source / "a.jsonl").read_bytes()
    (source / "a.jsonl").write_bytes(kept.replace(b"model", b"mouse"))
    line = fails(capsys, *flags(source, out))
    assert f"{source / 'a.jsonl'} has changed since" in line
    (source / "a.jsonl").write_bytes(kept)
    run(source, out, SIZE)
    check_shards(out, STREAM, SIZE)


def test_a_copy_of_the_source_is_the_same_source(source, out, tmp_path):
    run(source, out, SIZE, "--shards", "2")
    shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile)  # times differ
    shutil.copytree(out, tmp_path / "out2", copy_function=shutil.copyfile)
    run(tmp_path / "copy", tmp_path / "out2", SIZE)
    check_shards(tmp_path / "out2", STREAM, SIZE)


def test_an_edited_progress_is_not_believed(source, out, capsys):
    run(source, out, SIZE, "--shards", "2")
    path = out / "progress.json"
    fields = json.loads(path.read_text())
    for name, value in {"document": 7, "used": 0, "tokens": 1, "shards": 1}.items():
        path.write_text(json.dumps({**fields, name: value}))
        assert "progress.json cannot be read" in fails(capsys, *flags(source, out))


def test_only_its_own_temporary_files_are_removed(source, out):
    run(source, out, SIZE, "--shards", "1")
    mine = ["notes.tmp", "edufineweb_notes.tmp", "progress.json.old.tmp", "edufineweb_1.npy.7.tmp"]
    ours = ["edufineweb_train_000001.npy.7.tmp", "progress.json.7.tmp", f"{MANIFEST}.7.tmp"]
    for name in mine + ours:
        (out / name).touch()
    run(source, out, SIZE)
    assert sorted(path.name for path in out.glob("*.tmp")) == sorted(mine)


def test_pages_of_parquet_are_compared_with_their_checksums(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["To be, or not to be"] * 9})
    how = dict(compression="none", use_dictionary=False, write_statistics=False)
    for has_checksums in (True, False):
        pq.write_table(table, path, write_page_checksum=has_checksums, **how)
        flip(path, path.read_bytes().index(b"or not"))
        if has_checksums:
            with pytest.raises(UserError, match="a.parquet is damaged after row 0 .*CRC"):
                list(fineweb.read_chunks({path: 1}))
        else:  # nothing in the file could tell
            (chunk,) = fineweb.read_chunks({path: 1})
            assert chunk.texts[0] == "To be, nr not to be"


def test_rows_that_pyarrow_loses_are_missed(source, monkeypatch):
    """Where the head of a page or the footer is damaged, it may read fewer rows and say nothing."""
    path, original = source / "b.parquet", pq.ParquetFile.iter_batches
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", lambda *a, **k: islice(original(*a, **k), 0))
        with pytest.raises(UserError, match="b.parquet is damaged after row 0 .expected 100"):
            list(fineweb.read_chunks({path: 1}))
    monkeypatch.setattr(pq.ParquetFile, "num_row_groups", 1)
    with pytest.raises(UserError, match="b.parquet is damaged after row 100 .expected 150"):
        list(fineweb.read_chunks({path: 1}))


# ---------- Networks --------------------------------------------------------------------


def whole(request, content=b""):
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def slow(request, content=b""):
    """In five pieces, with pauses shorter than the time limit."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    for piece in np.array_split(np.frombuffer(content, np.uint8), 5):
        request.wfile.write(piece.tobytes())
        time.sleep(0.5 * network.TIMEOUT)


def silent(request, content=b""):
    request.server.ended.wait(20)


def cut(request, content=b""):
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content[: len(content) // 2])


def silent_midway(request, content=b""):
    cut(request, content)
    silent(request)


def login_page(request, content=b""):
    whole(request, b"<html>log in first</html>")


def status(code: int, **headers: str):
    def answer(request, content=b""):
        request.send_response(code)
        for name, value in {"Content_Length": "0", **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    return answer


@contextmanager
def server(answer):
    """A local server; `answer(request)` writes to it. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(ConnectionError):  # the client has given up
                answer(self)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.ended = threading.Event()
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.ended.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(network, "TIMEOUT", 0.2)
    monkeypatch.setattr(network, "PAUSE", 0.01)
    monkeypatch.setattr(network, "LONGEST_PAUSE", 0.1)


EXAMPLES = b"{}\n" * hellaswag.NUM_EXAMPLES


def fetch_hellaswag(folder, monkeypatch, *answers) -> tuple[Path, int]:
    """The downloaded file, and how often was asked; the last answer is given again and again."""
    asked = []

    def answer(request):
        asked.append(request)
        answers[min(len(asked), len(answers)) - 1](request, EXAMPLES)

    with server(answer) as address, seconds(10):
        monkeypatch.setattr(hellaswag, "URL", address)
        return hellaswag.download(folder), len(asked)


@pytest.mark.parametrize(
    "first",
    [whole, slow, silent, status(429, Retry_After="0"), status(429, Retry_After="3600")]
    + [status(500), status(503)],
)
def test_hellaswag_comes_in_the_end(tmp_path, monkeypatch, impatient, first):
    start = time.monotonic()
    path, asked = fetch_hellaswag(tmp_path, monkeypatch, first, whole)
    assert path.read_bytes() == EXAMPLES
    assert asked > (first not in (whole, slow))
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "answer, said",
    [
        (silent, r"cannot reach .*\(ConnectionError\)"),
        (silent_midway, r"cannot reach .*\(ConnectionError\)"),
        (cut, r"cannot reach .*\(ChunkedEncodingError\)"),
        (status(429, Retry_After="3600"), "status 429"),
        (status(500), "status 500"),
        (status(404), "status 404"),
        (login_page, "1 lines, expected 10042"),
    ],
)
def test_hellaswag_that_does_not_come_gets_one_line_in_time(
    tmp_path, monkeypatch, impatient, answer, said
):
    start = time.monotonic()
    with pytest.raises(UserError, match=f"{said}[^\n]*put a copy"):
        fetch_hellaswag(tmp_path, monkeypatch, answer)
    assert time.monotonic() - start < 4
    assert list(tmp_path.iterdir()) == []


def test_a_refused_connection_gets_one_line(tmp_path, monkeypatch, impatient):
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hellaswag, "URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(UserError, match=r"cannot reach .*\(ConnectionError\)"):
            hellaswag.download(tmp_path)


def hub(request, content, listing=whole, file=whole, etag="0ace"):
    """What fineweb.py asks the hub for: the dataset's files, then each file's head and body."""
    sha = "0123456789" * 4
    if request.path.startswith("/api/"):
        info = {"sha": sha, "siblings": [{"rfilename": "s/a.parquet"}]}
        listing(request, json.dumps(info).encode())
    elif request.command == "HEAD":
        head = {"Content_Length": str(len(content)), "X_Repo_Commit": sha, "ETag": f'"{etag}"'}
        status(200, **head)(request)
    else:
        start = int((request.headers["Range"] or "bytes=0-")[6:-1])  # after a cut
        file(request, content[start:])


@pytest.fixture
def hub_at(monkeypatch, tmp_path, impatient):
    """A function: point huggingface_hub at an address, with an empty cache and short waits."""
    constants = pytest.importorskip("huggingface_hub.constants")
    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pause(min(seconds, 0.02)))

    def point(address):
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)

    return point


def fetch_fineweb(hub_at, content, out, times=1, etag="0ace", **answers):
    """fineweb.py with a dataset on a local hub; an answer is given so often, then what is right."""
    again = {name: iter([answer] * times) for name, answer in answers.items()}

    def answer(request):
        kind = "listing" if request.path.startswith("/api/") else "file"
        if request.command == "HEAD" or kind not in again:
            hub(request, content, etag=etag)
        else:
            hub(request, content, **{kind: next(again[kind], whole)})

    with server(answer) as address, seconds(10):
        hub_at(address)
        run("o/n/s", out, SIZE)


@pytest.mark.parametrize(
    "answers",
    [
        dict(),
        dict(listing=silent),
        dict(listing=status(429, Retry_After="0")),
        dict(listing=status(500)),
        dict(file=cut),
        dict(file=slow),
    ],
)
def test_a_dataset_comes_in_the_end(source, out, hub_at, answers):
    fetch_fineweb(hub_at, (source / "b.parquet").read_bytes(), out, **answers)
    check_shards(out, reference(TEXTS[150:]), SIZE)


def test_a_damaged_download_is_not_tokenized(source, out, hub_at, capsys):
    """The hub's client compares sizes only; its tag of a large file is the file's sha256."""
    content = (source / "b.parquet").read_bytes()
    right, wrong = (hashlib.sha256(c).hexdigest() for c in (content, content + b"!"))
    with pytest.raises(SystemExit):
        fetch_fineweb(hub_at, content, out, etag=wrong)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "a.parquet is damaged: delete" in last and last.endswith(" to download it again")
    assert not list(out.glob("*.npy"))
    Path(last.split("delete ")[1].split()[0]).unlink()
    fetch_fineweb(hub_at, content, out, etag=right)
    check_shards(out, reference(TEXTS[150:]), SIZE)


@pytest.mark.parametrize(
    "answers, said",
    [
        (dict(listing=silent), "timed out"),
        (dict(listing=status(429, Retry_After="1")), "429 Too Many Requests"),
        (dict(listing=status(500)), "500"),
        (dict(listing=status(404)), "404"),
        (dict(listing=login_page), "not a list of files"),
        (dict(file=silent), "timed out"),
        (dict(file=status(500)), "500"),
        (dict(file=login_page), "should be of size"),
    ],
)
def test_a_dataset_that_does_not_come_gets_one_line_in_time(
    source, out, hub_at, capsys, answers, said
):
    start = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        fetch_fineweb(hub_at, (source / "b.parquet").read_bytes(), out, times=99, **answers)
    assert stopped.value.code == 2 and time.monotonic() - start < 5
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and said in last and "try again with a network" in last
    assert not out.exists()


# ---------- Names -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, split",
    [
        ("edufineweb_train_000001.npy", "train"),
        ("fineweb_val_000000.bin", "val"),
        ("carnival_train_01.npy", "train"),
        ("retrieval-train.npy", "train"),
        ("restrained_val_3.npy", "val"),
        ("train0001.npy", "train"),
        ("mytrain.npy", "train"),
        ("tiny_validation_0.npy", "val"),
        ("tokens.npy", None),
    ],
)
def test_the_split_is_a_word_of_the_name(tmp_path, name, split):
    assert support.shards.split_of(tmp_path / name) == split


def test_a_shard_is_not_both_trained_and_validated_on(tmp_path):
    np.save(tmp_path / "carnival_train_0.npy", np.arange(9, dtype=np.uint16))
    np.save(tmp_path / "carnival_val_0.npy", np.arange(5, dtype=np.uint16))
    assert [len(shard) for shard in load_split(str(tmp_path), "val")] == [5]
    assert [len(shard) for shard in load_split(str(tmp_path), "train")] == [9]
    for name in ("a_train_val_0.npy", "trainval.npy"):
        np.save(tmp_path / name, np.arange(5, dtype=np.uint16))
        for split in ("train", "val"):
            with pytest.raises(UserError, match=f"{name} could be .*rename it$"):
                load_split(str(tmp_path), split)
        (tmp_path / name).unlink()


# ---------- Files that are not what they should be --------------------------------------

BIN_HEADER = np.array([20240520, 1, 5] + [0] * 253, dtype="<i4").tobytes()


def npy(header: str) -> bytes:
    """A .npy file of 9 tokens with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(18)


def dangling(path):
    path.symlink_to("nowhere")


SHARDS = {
    "train.npy": (os.mkfifo, "a pipe, not a file"),
    "train.bin": (os.mkfifo, "a pipe, not a file"),
    "train1.npy": (Path.mkdir, "a folder or a pipe, not a file"),
    "train2.npy": (dangling, "a broken link"),
    "train3.npy": (lambda p: np.savez(p.open("wb"), np.zeros(9, np.uint16)), "not a whole .npy"),
    "train4.npy": (lambda p: np.save(p, np.array([{}])), "not a whole .npy"),
    "train5.npy": (npy("{'descr': '<u2', 'fortran_order': False, 'shape': (8,)}"), "8 tokens"),
    "train6.npy": (
        npy(f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({10**19},)}}"),
        "not a whole .npy",
    ),
    "train7.npy": (npy("{" * 5000), "not a whole .npy"),
    "train2.bin": (BIN_HEADER + bytes(9), "has 4.5 tokens, its header says 5"),
    "train3.bin": (BIN_HEADER, "has 0 tokens, its header says 5"),
    "train4.bin": (BIN_HEADER[:8] + bytes(1016), "has 0 tokens, expected one or more"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_is_none_is_named_in_one_line(tmp_path, name):
    make, said = SHARDS[name]
    path = tmp_path / name
    path.write_bytes(make) if isinstance(make, bytes) else make(path)
    with seconds(5), pytest.raises(UserError, match=f"^[^\n]*{name}[^\n]* {said}[^\n]*fineweb.py$"):
        load_split(str(tmp_path), "train")


TEXT = "To be, or not to be: that is the question. "
ROOTS = {
    "none.txt": (lambda path: None, "does not exist"),
    "link.txt": (dangling, "does not exist"),
    "pipe": (os.mkfifo, "neither a file nor a folder"),
    "latin1.txt": ((TEXT + "café").encode("latin1"), "not UTF-8 .byte 0xe9 at offset 46."),
    "a.npy": (npy("{}"), "not UTF-8 .byte 0x93 at offset 0."),
    "short.txt": (b" word" * 19, "has 19 tokens, expected 20 or more"),
    "empty.txt": (b"", "has 0 tokens, expected 20"),
    "mem.txt": (lambda path: path.symlink_to("/proc/self/mem"), "cannot read"),
}


@pytest.mark.parametrize("name", ROOTS)
def test_a_data_root_that_is_none_is_named_in_one_line(tmp_path, name):
    make, said = ROOTS[name]
    path = tmp_path / name
    path.write_bytes(make) if isinstance(make, bytes) else make(path)
    for split in ("train", "val"):
        with seconds(5), pytest.raises(UserError, match=f"{name} .*{said}|{said}.*{name}"):
            load_split(str(path), split)


def test_the_shortest_text_has_both_splits(tmp_path):
    (tmp_path / "text").write_text(" word" * 20)
    train, val = (load_split(str(tmp_path / "text"), split)[0] for split in ("train", "val"))
    assert (len(train), len(val)) == (18, 2)


def test_a_folder_of_texts_says_what_both_scripts_take(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT * 9)
    with pytest.raises(UserError, match="for a text, give --data_root the file itself"):
        load_split(str(tmp_path), "train")
    line = fails(capsys, "--source", tmp_path, "--out", tmp_path / "out")
    assert "python train_gpt2.py --data_root FILE" in line


def test_input_txt_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(load_split("input.txt", "train")[0]) > 200_000
    (tmp_path / "input.txt").write_text(TEXT * 9)
    assert len(load_split("input.txt", "train")[0]) < 200


SOURCES = {
    "pipe.jsonl": (os.mkfifo, "a pipe, not a file"),
    "pipe.parquet": (os.mkfifo, "a pipe, not a file"),
    "folder.jsonl": (Path.mkdir, "a folder or a pipe"),
    "link.parquet": (dangling, "a broken link"),
    "mem.jsonl": (lambda path: path.symlink_to("/proc/self/mem"), "cannot read"),
    "nested.jsonl": (b"[" * 100_000, "document 1 is not a JSON object"),
    "number.jsonl": (b'{"text": ' + b"9" * 5000 + b"}", "document 1 is not a JSON object"),
    "bytes.jsonl": (b'{"text": "\xff"}', "document 1 is not a JSON object"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_is_none_is_named_in_one_line(tmp_path, out, capsys, name):
    make, said = SOURCES[name]
    path = tmp_path / "s" / name
    path.parent.mkdir()
    path.write_bytes(make) if isinstance(make, bytes) else make(path)
    with seconds(5):
        line = fails(capsys, *flags(path.parent, out))
    assert name in line and said in line


def test_nested_json_elsewhere(source, out, tmp_path, capsys):
    run(source, out, SIZE, "--shards", "1")
    (out / "progress.json").write_text("[" * 100_000)
    assert "progress.json cannot be read" in fails(capsys, *flags(source, out))
    (tmp_path / "a.jsonl").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"a\.jsonl, line 1 is cut or is not JSON"):
        hellaswag.load_examples(tmp_path / "a.jsonl")


@pytest.mark.parametrize("size", ["9" * 14, "9" * 18])
def test_a_shard_that_does_not_fit_in_memory(source, out, capsys, monkeypatch, size):
    def no_memory(*_, **__):
        raise MemoryError  # or the machine promises memory that it does not have

    monkeypatch.setattr(np, "empty", no_memory)
    line = fails(capsys, *flags(source, out)[:4], "--shard_size", size)
    assert f"shard_size: {size} tokens do not fit in memory" in line
    assert not out.exists()


# ---------- Disks -----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["a file", "a file/below", "/proc/none"])
def test_an_out_that_cannot_be_a_folder(source, tmp_path, capsys, place):
    (tmp_path / "a file").write_text("mine")
    line = fails(capsys, *flags(source, tmp_path / place))
    assert str(tmp_path / place) in line and "write elsewhere" in line or "is a file" in line
    assert (tmp_path / "a file").read_text() == "mine"


def limited_to(size: int):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# in bytes: less than progress.json; than a shard; than a shard, but only by its last byte
@pytest.mark.parametrize("size", [100, 2000, 128 + 2 * SIZE - 1])
def test_a_disk_that_fills_up(source, out, capsys, size):
    """As far as a process can play it: no file can grow beyond so many bytes."""
    run(source, out, SIZE, "--shards", "1")
    before = {path: path.read_bytes() for path in out.iterdir()}
    limited_to(size)
    try:
        line = fails(capsys, *flags(source, out))
    finally:
        limited_to(resource.RLIM_INFINITY)
    assert "cannot write" in line and "make room" in line
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    run(source, out, SIZE)
    check_shards(out, STREAM, SIZE)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_write_that_fails_gets_one_line(tmp_path, monkeypatch, code, call):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    (tmp_path / "a").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(*(Path, "open") if call == "open" else (os, call), fail)
        with pytest.raises(UserError, match=f"cannot write .*a .{os.strerror(code)}.: make room"):
            write_whole(tmp_path / "a", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# ---------- Mutations: whatever happens to a file, the right result or one line -----------


def flip_a_bit(content: bytes, rng: random.Random) -> bytes:
    return change_a_byte(content, rng.randrange(len(content)), lambda b: b ^ 1 << rng.randrange(8))


def flip_a_bit_of_the_head(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(min(128, len(content)))
    return change_a_byte(content, place, lambda b: b ^ 1 << rng.randrange(8))


def flip_a_bit_of_the_tail(content: bytes, rng: random.Random) -> bytes:
    place = len(content) - 1 - rng.randrange(min(512, len(content)))
    return change_a_byte(content, place, lambda b: b ^ 1 << rng.randrange(8))


def change_a_digit(content: bytes, rng: random.Random) -> bytes:
    digits = [place for place, byte in enumerate(content) if byte in b"0123456789"]
    return change_a_byte(content, rng.choice(digits), lambda b: rng.choice(b"0123456789"))


def change_a_byte(content: bytes, place: int, change) -> bytes:
    return content[:place] + bytes([change(content[place])]) + content[place + 1 :]


def cut_the_end(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def lose_a_block(content: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(content)), rng.choice((1, 2, 16, 512))
    return content[:start] + content[start + length :]


def zero_a_block(content: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(content)), rng.choice((1, 2, 16, 512))
    lost = content[start : start + length]
    return content[:start] + bytes(len(lost)) + content[start + length :]


def repeat_a_block(content: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(content)), rng.choice((1, 2, 16, 512))
    return content[: start + length] + content[start:]


def insert_noise(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 16))) + content[start:]


MUTATORS = [
    flip_a_bit,
    flip_a_bit_of_the_head,
    flip_a_bit_of_the_tail,
    change_a_digit,
    cut_the_end,
    lose_a_block,
    zero_a_block,
    repeat_a_block,
    insert_noise,
]
FEW = TEXTS[:40]  # three shards of 500 tokens and a rest, tokenized in a moment


def mutable_source(folder: Path, name: str, **how) -> Path:
    if name.endswith(".parquet"):
        folder.mkdir()
        pq.write_table(pa.table({"text": FEW}), folder / name, row_group_size=15, **how)
    else:
        write_source(folder, {name: FEW})
    return folder / name


def tokens_of(folder: Path) -> list[list[int]]:
    return [shard.tolist() for split in ("val", "train") for shard in load_split(folder, split)]


def manifested(folder: Path, name: str):
    """A shard of .npy or .bin in a folder with a manifest: verified, then loaded."""
    path = folder / name
    tokens = np.arange(500, dtype=np.uint16)
    if name.endswith(".bin"):
        path.write_bytes(np.array([20240520, 1, 500] + [0] * 253, "<i4").tobytes() + bytes(tokens))
    else:
        np.save(path, tokens)
    add_to_manifest(path)

    def read():
        verify(folder)
        return load_shard(path).tolist()

    return path, read


def foreign(folder: Path, name: str):
    path, _ = manifested(folder, name)
    (folder / MANIFEST).unlink()
    return path, lambda: load_shard(path).tolist()


def manifest(folder: Path, name: str):
    fineweb.tokenize(
        str(mutable_source(folder / "s", "a.jsonl").parent), folder / "o", 500, None, 1
    )
    return folder / "o" / MANIFEST, lambda: fineweb.verify_out(folder / "o")


def resumed(folder: Path, name: str, mutate_source: bool = False):
    """fineweb.py after its first shard: progress.json, or the source, is not what it was."""
    name, source, out = ("a.jsonl", name)[mutate_source], folder / "s", folder / "out"
    mutable_source(source, name)
    fineweb.tokenize(str(source), out, 500, 1, 1)
    kept = {path: path.read_bytes() for path in out.iterdir()}
    mutated = source / name if mutate_source else out / "progress.json"

    def read():
        for path in out.iterdir():
            if path != mutated:
                path.unlink()
        for path, content in kept.items():
            if path != mutated:
                path.write_bytes(content)
        fineweb.tokenize(str(source), out, 500, None, 1)
        return tokens_of(str(out))

    return mutated, read


def read_anew(folder: Path, name: str, **how):
    """The texts of a source: those that can be read, with nothing to compare them with."""
    path = mutable_source(folder / "s", name, **how)

    def read():
        chunks = fineweb.read_chunks(fineweb.find_files(str(path.parent)))
        return [text for chunk in chunks for text in chunk.texts]

    return path, read


def examples(folder: Path, name: str):
    shutil.copy(Path(__file__).parents[1] / "data" / "hellaswag_8.jsonl", folder / name)
    return folder / name, lambda: hellaswag.load_examples(folder / name)


edited = partial(resumed, mutate_source=True)
checked = partial(read_anew, write_page_checksum=True)

# How a file is made and read; its name; whether other contents can pass for the right ones: where
# nothing tells what was written, as in shards and sources from elsewhere.
FORMATS = {
    "npy, manifest": (manifested, "a_train_0.npy", False),
    "bin, manifest": (manifested, "a_train_0.bin", False),
    "SHA256SUMS": (manifest, MANIFEST, False),
    "progress.json": (resumed, "progress.json", False),
    "jsonl, resumed": (edited, "a.jsonl", False),
    "parquet, resumed": (edited, "a.parquet", False),
    "npy, foreign": (foreign, "a_train_0.npy", True),
    "bin, foreign": (foreign, "a_train_0.bin", True),
    "jsonl, foreign": (read_anew, "a.jsonl", True),
    "parquet, checksums": (checked, "a.parquet", False),
    "parquet, foreign": (read_anew, "a.parquet", True),
    "HellaSwag": (examples, "a.jsonl", True),
}


def mutations(folder: Path, kind: str, seeds: range) -> Counter:
    """How the cases end: "right", "error" (one line that names the file) or "other" contents."""
    make, name, may_differ = FORMATS[kind]
    path, read = make(folder, name)
    original, expected, ends = path.read_bytes(), read(), Counter()
    for seed in seeds:
        rng = random.Random(seed)
        mutate = rng.choice(MUTATORS)
        path.write_bytes(mutate(original, rng))
        case = f"{kind}, {mutate.__name__}, seed {seed}"
        try:
            with seconds(20):
                end = "right" if read() == expected else "other"
        except UserError as error:
            end = "error"
            assert "\n" not in str(error) and name in str(error), case
        except Exception as error:
            raise AssertionError(f"{case}: {error!r:.200}") from error
        assert end != "other" or may_differ, case
        ends[end] += 1
    return ends


@pytest.mark.parametrize("kind", FORMATS)
def test_mutations(tmp_path, kind):
    slow = FORMATS[kind][0] in (resumed, edited)  # each case tokenizes
    ends = mutations(tmp_path, kind, range(40 if slow else 200))
    assert ends["error"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("kind", FORMATS)
def test_many_mutations(tmp_path, kind, capsys):
    ends = mutations(tmp_path, kind, range(5000))
    with capsys.disabled():
        print(f"\n{kind:20} {sum(ends.values())} tried:", dict(ends))
