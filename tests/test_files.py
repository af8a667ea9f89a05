"""A file is there whole, or not at all."""

import os

import pytest

from support.files import whole_file, whole_folder, write_whole


def test_text_and_bytes(tmp_path):
    write_whole(tmp_path / "a.txt", "né\n")
    write_whole(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == "né\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_name_stands_for_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_write_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_user_s_file_beside_it_is_left_alone(tmp_path):
    (tmp_path / "a.tmp").write_text("mine")
    (tmp_path / "a.txt.tmp").write_text("mine, too")
    write_whole(tmp_path / "a.txt", "ours")
    assert (tmp_path / "a.tmp").read_text() == "mine"
    assert (tmp_path / "a.txt.tmp").read_text() == "mine, too"


def test_it_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "a.txt", []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append((os.fstat(fd).st_size, path.exists())))
    write_whole(path, "text")
    assert seen == [(4, False)] and path.exists()


def test_a_folder_has_its_name_when_its_files_are_on_disk(tmp_path, monkeypatch):
    path, named = tmp_path / "new" / "folder", []
    monkeypatch.setattr(os, "fsync", lambda fd: named.append(path.exists()))
    with whole_folder(path) as folder:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")
    assert named == [False, False]
    assert {file.name for file in path.iterdir()} == {"a", "b"}
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
