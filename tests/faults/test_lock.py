"""Two runs in one folder: the second is refused, whatever happens to the first."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_stop import FLAGS, start, wait_for

from support import runs
from tiny import error_of, run


@pytest.fixture
def first(tmp_path):
    """A run in log, in the middle of its steps."""
    process = start(tmp_path / "log", 1)
    wait_for(process, "step     5 |")
    process.send_signal(signal.SIGSTOP)  # it still has the lock, and does not end meanwhile
    yield process
    process.kill()
    process.wait()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def test_a_second_run_is_refused_and_touches_nothing(first, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0.2)
    before = contents(tmp_path / "log")
    for more in ((), ("--resume", "1")):
        error = error_of(capsys, *FLAGS, *more, "--log_dir", str(tmp_path / "log"))
        assert f"another run is using {tmp_path}/log: wait for it, or name" in error
    assert contents(tmp_path / "log") == before
    print(f"the second run: {error.strip()}")


def test_two_processes_are_refused_alike(first, tmp_path):
    second = run(*FLAGS, "--log_dir", str(tmp_path / "log"), processes=2, timeout=60)
    assert second.returncode != 0 and second.stderr.count("another run is using") == 1


def test_the_lock_ends_with_its_process(first, tmp_path):
    first.kill()
    first.wait()
    after = run(*FLAGS, "--max_steps", "1", "--log_dir", str(tmp_path / "log"))
    assert after.returncode == 0 and "the earlier run in" in after.stdout


def test_a_run_that_is_about_to_end_is_waited_for(tmp_path):
    code = "import filelock, time\nwith filelock.FileLock('.lock'): print(1); time.sleep(1)"
    (tmp_path / "log").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-uc", code], cwd=tmp_path / "log", stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    after = run(*FLAGS, "--max_steps", "1", "--log_dir", str(tmp_path / "log"))
    assert after.returncode == 0 and holder.wait() == 0


@pytest.mark.parametrize("name", ["file", "file/log"])
def test_a_log_dir_that_is_no_folder(tmp_path, capsys, name):
    (tmp_path / "file").write_text("mine")
    error = error_of(capsys, *FLAGS, "--log_dir", str(tmp_path / name))
    assert "not a folder that can be written to" in error
    assert (tmp_path / "file").read_text() == "mine"
