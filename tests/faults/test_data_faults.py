"""Damaged shards and sources, networks that fail, files that are not what they should be."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fineweb
import hellaswag
from support import network
from support.cli import UserError
from support.shards import MANIFEST, verify
from test_fineweb import check_shards, fails, make_texts, reference, run, write_source

TEXTS = make_texts(300)
STREAM = reference(TEXTS)
SIZE = 1500  # tokens in a shard


@pytest.fixture(autouse=True)
def without_gigatoken(monkeypatch):
    """Loading it takes longer than these few texts."""
    monkeypatch.setitem(sys.modules, "gigatoken", None)


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
    source = write_source(tmp_path / "s", {"a.jsonl": TEXTS[:60]})
    for stop_after in range(100):
        shutil.rmtree(out, ignore_errors=True)
        left = stop_after
        try:
            run(source, out, SIZE)
            break
        except SystemExit:
            left = 100
            run(source, out, SIZE)
            check_shards(out, reference(TEXTS[:60]), SIZE)
            assert verify(out) == len(list(out.glob("*.npy")))
    shards = len(list(out.glob("*.npy")))
    assert stop_after == 1 + 3 * shards + 1  # progress; each shard, its sum, progress; the end


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
    monkeypatch.setattr(network, "LONGEST_PAUSE", 0.3)


EXAMPLES = b"{}\n" * hellaswag.NUM_EXAMPLES


def fetch_hellaswag(folder, monkeypatch, *answers) -> tuple[Path, int]:
    """The downloaded file, and how often was asked; the last answer is given again and again."""
    asked = []

    def answer(request):
        asked.append(request)
        answers[min(len(asked), len(answers)) - 1](request, EXAMPLES)

    with server(answer) as address:
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
    assert asked == (1 if first in (whole, slow) else 2)
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


def hub(request, content, listing=whole, file=whole):
    """What fineweb.py asks the hub for: the dataset's files, then each file's head and body."""
    sha = "0123456789" * 4
    if request.path.startswith("/api/"):
        info = {"sha": sha, "siblings": [{"rfilename": "s/a.parquet"}]}
        listing(request, json.dumps(info).encode())
    elif request.command == "HEAD":
        head = {"Content_Length": str(len(content)), "X_Repo_Commit": sha, "ETag": '"0ace"'}
        status(200, **head)(request)
    else:
        start = int((request.headers["Range"] or "bytes=0-")[6:-1])  # after a cut
        file(request, content[start:])


@pytest.fixture
def hub_at(monkeypatch, tmp_path, impatient):
    """A function: point huggingface_hub at an address, with an empty cache and short waits."""
    constants = pytest.importorskip("huggingface_hub.constants")
    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: pause(min(seconds, 0.1)))

    def point(address):
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)

    return point


def fetch_fineweb(hub_at, content, out, times=1, **answers):
    """fineweb.py with a dataset on a local hub; an answer is given so often, then what is right."""
    again = {name: iter([answer] * times) for name, answer in answers.items()}

    def answer(request):
        kind = "listing" if request.path.startswith("/api/") else "file"
        if request.command == "HEAD" or kind not in again:
            hub(request, content)
        else:
            hub(request, content, **{kind: next(again[kind], whole)})

    with server(answer) as address:
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
