"""Damaged shards and sources, networks that fail, files that are not what they should be."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fineweb
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
