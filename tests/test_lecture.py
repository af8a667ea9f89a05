"""lecture.py against a small repository with good and bad lessons, made for each test."""

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import lecture
from support.cli import UserError

# In a child: a suite started in the background by a script has its children ignore SIGINT.
listen_to_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
ignore_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
GOOD = "print('loss:', 0.25)\n"
PROOF = "def test_it():\n    assert 'loss' in open('a.py').read()\n"


def git(repo: Path, *args: str) -> str:
    return subprocess.run(
        ["git", *args], cwd=repo, check=True, capture_output=True, text=True
    ).stdout


def commit(
    repo: Path,
    subject: str,
    files: dict[str, str],
    run: str = "python a.py",
    expect: str = r"^loss: 0\.2",
    why: str = "it must be so.",
) -> None:
    """Commit files as a lesson, or as a plain commit where the subject has no number."""
    for name, text in files.items():
        (repo / name).parent.mkdir(exist_ok=True)
        (repo / name).write_text(text)
    body = f"\n\nWhy: {why}\nLook at: a.py\n\nRun: {run}\nExpect: {expect}"
    git(repo, "add", "--all")
    git(
        repo,
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        subject + (body if subject.startswith("lesson") else ""),
    )


@pytest.fixture
def repo(tmp_path, monkeypatch) -> Path:
    """An empty repository, with a git that has no user and no settings."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a reader")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "reader@example.com")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    root = tmp_path / "repo"
    root.mkdir()
    git(root, "init", "-q")
    shutil.copy(lecture.__file__, root)
    without_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(lecture.ROOT / "support", root / "support", ignore=without_cache)
    commit(root, "Add the reader of the lessons", {})
    return root


@pytest.fixture
def three(repo) -> Path:
    """Two good lessons, a plain commit between them, and a third whose Expect: is wrong."""
    commit(repo, "lesson 01: print a loss", {"a.py": GOOD, "tests/test_a.py": PROOF})
    commit(repo, "Say what this is", {"README.md": "about losses\n"})
    commit(
        repo,
        "lesson 02: read a text",
        {"b.py": "x = 1\ny = 2\n", "input.txt": "To be\n" * 50, "assets/log.txt": "0 train 11\n"},
    )
    commit(repo, "lesson 03: a loss of nothing", {"c.py": "z = 3\n"}, expect=r"^loss: 0\.0")
    return repo


def lines(capfd) -> list[str]:
    return capfd.readouterr().out.splitlines()


def exit_code(argv: list[str], root: Path) -> int:
    """The exit code of a bad command line."""
    with pytest.raises(SystemExit) as stop:
        lecture.main(argv, root)
    return stop.value.code


def no_worktree_left(repo: Path) -> bool:
    return len(git(repo, "worktree", "list").splitlines()) == 1


def test_lists_lessons_and_counts_code_without_data(three, capfd):
    assert lecture.main([], three) == 0
    listed = [line.split() for line in lines(capfd)]
    assert [line[0] for line in listed] == ["01", "02", "03"]
    assert listed[1] == ["02", "read", "a", "text", "+2", "-0"]


def test_shows_message_then_diff_without_data(three, capfd):
    assert lecture.main(["2"], three) == 0
    shown = "\n".join(lines(capfd))
    assert shown.startswith("lesson 02: read a text\n\nWhy: ")
    assert shown.index("Expect: ") < shown.index("+x = 1")
    assert "To be" not in shown and "0 train 11" not in shown


def test_runs_one_lesson_and_compares_it_with_expect(three, capfd):
    assert lecture.main(["1", "--run"], three) == 0
    assert {"$ python a.py", "loss: 0.25", "Printed: loss: 0.2"} <= set(lines(capfd))
    assert lecture.main(["3", "--run"], three) == 1
    shown = lines(capfd)
    assert "Printed: nothing like it" in shown and shown[-1].startswith("FAILED")
    assert no_worktree_left(three)


def test_check_passes_and_fails(three, capfd):
    assert lecture.main(["check", "1..2"], three) == 0
    shown = lines(capfd)
    assert [line[:12] for line in shown[:2]] == ["lesson 01 ok", "lesson 02 ok"]
    assert shown[-1] == "2 passed, 0 failed"
    assert lecture.main(["check", "2.."], three) == 1
    shown = lines(capfd)
    assert shown[1].startswith("lesson 03 FAILED")
    assert shown[2:4] == [r"    Expect: not found: ^loss: 0\.0", "    | loss: 0.25"]
    assert shown[-1] == "1 passed, 1 failed"
    assert no_worktree_left(three)


def test_check_runs_the_tests_that_the_lesson_changes(three, capfd):
    commit(
        three,
        "lesson 04: break the proof",
        {"a.py": "print('loss', 0.25)\n", "tests/test_a.py": PROOF + "    assert 0\n"},
        expect="loss 0.2",
    )
    commit(three, "lesson 05: leave it broken", {"c.py": "z = 4\n"}, expect="loss 0.2")
    assert lecture.main(["check", "4..5"], three) == 1
    shown = lines(capfd)
    assert "    tests: exit status 1" in shown and any("1 failed" in line for line in shown)
    assert shown[-2].startswith("lesson 05 ok") and shown[-1] == "1 passed, 1 failed"


def test_a_run_that_fails_fails_the_lesson_whatever_it_printed(three, capfd):
    commit(three, "lesson 04: fall over at the end", {"a.py": GOOD + "1 / 0\n"})
    assert lecture.main(["check", "4"], three) == 1
    shown = "\n".join(lines(capfd))
    assert "Run: exit status 1" in shown and "ZeroDivisionError" in shown


def test_what_fails_is_tried_once_more(three, tmp_path, capfd):
    tries = tmp_path / "tries"
    command = f"echo try >> {tries}; cat {tries} | wc -l"
    commit(three, "lesson 04: too busy at first", {}, run=command, expect=r"^ *2$")
    assert lecture.main(["check", "4"], three) == 0
    assert lines(capfd)[0].endswith("too busy at first  (at the second try)")
    assert lecture.main(["check", "4"], three) == 1  # 3 and 4: it is tried only twice
    assert "    | 4" in [line.replace("|    ", "|") for line in lines(capfd)]


def test_a_lesson_is_checked_with_its_later_correction(repo, capfd):
    rest = "".join(f"# {i}\n" for i in range(20))
    commit(repo, "lesson 01: a wrong loss", {"a.py": f"{rest}print('loss:', 9)\n# end\n"})
    commit(repo, "lesson 02: more of it", {"a.py": f"# more\n{rest}print('loss:', 9)\n# end\n"})
    corrected = f"# more\n{rest}print('loss:', 0.25)\n# end\n"
    assert lecture.main(["check"], repo) == 1
    commit(
        repo,
        "lesson 03: the loss",
        {"a.py": corrected, "tests/test_a.py": PROOF},
        expect="^loss: 0[.]2\nCorrects: 1..2",
    )
    capfd.readouterr()
    assert lecture.main(["check"], repo) == 0
    told = [line.partition("s  ")[2] for line in lines(capfd)]
    assert told[:3] == ["a wrong loss  (corrected by 3)", "more of it", "the loss"]
    assert lecture.main(["1"], repo) == 0
    assert lines(capfd)[0] == "[lesson 3 corrects this one: the loss]"
    assert lecture.main(["2"], repo) == 0  # also corrected, but shown only where the range begins
    assert lines(capfd)[0] == "lesson 02: more of it"
    assert no_worktree_left(repo)


def test_a_later_lesson_says_what_to_expect_instead(three, capfd):
    commit(three, "lesson 04: it is a quarter", {}, expect="^loss\nExpect 3: ^loss: 0[.]25$")
    assert lecture.main(["check", "3"], three) == 0
    assert lecture.main(["3", "--run"], three) == 0
    assert "Expect:  ^loss: 0[.]25$" in lines(capfd)


def test_a_run_that_hangs_is_stopped_with_its_children(three, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(lecture, "LIMIT_SECONDS", 0.5)
    beats = tmp_path / "beats"
    heart = f"while true; do echo beat >> {beats}; sleep 0.05; done"
    commit(three, "lesson 04: never come back", {}, run=f"({heart}) & echo loss: 0.25; sleep 60")
    start = time.monotonic()
    assert lecture.main(["check", "4"], three) == 1
    assert time.monotonic() - start < 10
    assert "    | loss: 0.25" in lines(capfd)
    size = beats.stat().st_size
    time.sleep(0.2)
    assert beats.stat().st_size == size > 0


def test_errata_of_any_commit_are_shown_below_the_message(three, capfd):
    long = "it is " + "not " * 40 + "so."
    git(three, "commit", "-q", "--allow-empty", "-m", f"Errata\n\nErratum 02: {long}")
    commit(three, "lesson 04: another", {}, expect=f"loss\nErratum 02: nor so.\nErratum 01: {long}")
    assert lecture.main(["2"], three) == 0
    shown = "\n".join(lines(capfd))
    before, erratum, second = shown.split("Erratum: ")
    assert "Expect: " in before and " ".join(erratum.split()) == long
    assert second.startswith("nor so.\n\ndiff --git") and max(map(len, shown.split("\n"))) <= 88
    assert lecture.main([], three) == 0
    listed = lines(capfd)
    assert listed[0].endswith("(1 erratum)") and listed[1].endswith("(2 errata)")
    assert not lecture.faults(lecture.read_lessons(three)[-1])  # of any width


def test_a_command_that_is_run_in_the_background_hears_interrupts(three):
    command = "python -c 'import signal; print(signal.getsignal(signal.SIGINT))'"
    commit(three, "lesson 04: interrupt me", {}, run=command, expect="default_int_handler")
    check = [sys.executable, "lecture.py", "check", "4"]
    assert subprocess.run(check, cwd=three, preexec_fn=ignore_interrupts).returncode == 0


def test_commands_are_those_of_this_interpreter_in_a_clean_checkout(three, monkeypatch, capfd):
    (three / "untracked.txt").write_text("not part of a clone")
    monkeypatch.setenv("PATH", os.pathsep.join([str(three), os.environ["PATH"]]))
    (three / "python").write_text("#!/bin/sh\necho the wrong python\n")
    (three / "python").chmod(0o755)
    run = "python -c 'import sys, os; print(sys.prefix, os.path.exists(\"untracked.txt\"))'"
    git(
        three,
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "lesson 04: where am I\n\nWhy: to know\n"
        f"Look at: nothing\n\nRun: {run}\nExpect: ^{sys.prefix} False$",
    )
    assert lecture.main(["check", "4"], three) == 0


def test_newest_first_until_the_minutes_are_used(three, capfd):
    assert lecture.main(["check", "1..2", "--newest"], three) == 0
    assert [line[:9] for line in lines(capfd)[:2]] == ["lesson 02", "lesson 01"]
    assert lecture.main(["check", "--newest", "--minutes", "0"], three) == 1
    shown = lines(capfd)
    assert shown[:2] == ["left out after 0 minutes: 03 02 01", "0 passed, 0 failed"]
    assert shown[2:] == ["nothing was checked: give it more --minutes"]


def test_a_worktree_of_the_reader_s_that_was_moved_stays(three, tmp_path, monkeypatch):
    git(three, "worktree", "add", "-q", "--detach", str(tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert lecture.main(["1", "--run"], three) == 0
    assert git(tmp_path / "moved", "status", "--short") == ""
    monkeypatch.setattr(lecture, "git", partial(fail_to_add, lecture.git))
    assert exit_code(["1", "--run"], three) == 2
    assert git(tmp_path / "moved", "status", "--short") == ""
    assert len(git(three, "worktree", "list").splitlines()) == 2  # the repository, and the moved


def fail_to_add(git, root: Path, *args: str) -> str:
    """git, but `worktree add` fails half-way."""
    printed = git(root, *args)
    if args[:2] == ("worktree", "add"):
        (Path(args[-2]) / ".git").unlink()
        raise UserError("no room")
    return printed


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"subject": "lesson 02: " + "w" * 62}, "message: subject has 73 characters"),
        ({"why": "w" * 90}, "message: line has 95 characters"),
        ({"why": ""}, "message: needs one line 'Why: ...', has 0"),
        ({"expect": "1\nExpect: 2"}, "message: needs one line 'Expect: ...', has 2"),
        ({"expect": "loss: ("}, "message: Expect: is not a regular expression"),
        ({"expect": "loss\nCorrects: 1"}, "message: Corrects: 1 is not a range like 24..36"),
        ({"expect": "(loss)?"}, "message: Expect: is found even if nothing is printed"),
    ],
)
def test_the_form_of_the_message(repo, capfd, change, complaint):
    commit(repo, "lesson 01: print a loss", {})
    commit(repo, **{"subject": "lesson 02: say it", "files": {}} | change)
    assert lecture.main(["check", "2"], repo) == 1
    shown = lines(capfd)
    assert shown[0].startswith("lesson 02 FAILED") and complaint in "\n".join(shown)
    assert shown[-1] == "0 passed, 1 failed"


def test_numbers_are_consecutive(repo, capfd):
    for number in ("02", "04", "04"):
        commit(repo, f"lesson {number}: a number out of order", {})
    assert lecture.main(["check"], repo) == 1
    shown = lines(capfd)
    told = [line.split(":")[1] for line in shown if "message" in line]
    assert told == [" comes after 00", " comes after 02", " comes after 04"]
    assert shown[-1] == "0 passed, 3 failed"


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["9"], "no lesson 09: there are 01 to 03"),
        (["check", "2..9"], "no lesson 09"),
        (["check", "3..1"], "empty range: write 1..3"),
        (["check", "1-3"], "1-3 names no lesson"),
        (["chekc"], "chekc names no lesson"),
    ],
)
def test_a_bad_command_line_is_reported_in_one_line(three, capfd, argv, complaint):
    assert exit_code(argv, three) == 2
    told = capfd.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1 and complaint in told.err


def test_an_incomplete_history_is_reported_in_one_line(three, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert exit_code([], tmp_path / "empty") == 2
    assert "not a git repository" in capfd.readouterr().err
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{three}", "shallow")
    assert exit_code(["check"], tmp_path / "shallow") == 2
    told = capfd.readouterr().err
    assert "git fetch --unshallow" in told and len(told.splitlines()) == 1


def test_a_closed_pipe_is_not_an_error(three):
    done = subprocess.run(
        f"{sys.executable} lecture.py 2 | true",
        shell=True,
        cwd=three,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_check_leaves_nothing_behind(three, tmp_path, number, status):
    started = tmp_path / "started"
    commit(three, "lesson 04: wait", {}, run=f"pwd > {started}; exec sleep 60")
    process = subprocess.Popen(
        [sys.executable, "lecture.py", "check", "4"], cwd=three, preexec_fn=listen_to_interrupts
    )
    deadline = time.monotonic() + 30
    while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(20) == status
    assert no_worktree_left(three) and not Path(started.read_text().strip()).parent.exists()


def test_the_last_word_on_what_to_expect_counts(three, capfd):
    commit(three, "lesson 04: a first word", {}, expect="^loss\nExpect 3: ^loss: 0[.]9$")
    commit(three, "lesson 05: the last", {}, expect="^loss\nExpect 3: ^loss: 0[.]25$")
    assert lecture.main(["check", "3"], three) == 0


def test_expect_holds_for_a_line_among_others(three, capfd):
    commit(
        three,
        "lesson 04: more lines",
        {"a.py": f"print(1)\n{GOOD}print(2)\n"},
        expect="^loss: 0.25$",
    )
    assert lecture.main(["check", "4"], three) == 0
    assert lecture.main(["4", "--run"], three) == 0


def test_a_lesson_is_run_with_the_change_to_try(repo, capsys):
    commit(repo, "lesson 01: first", {"a.py": GOOD})
    assert "has no patch" in error_of_try(repo, capsys)
    patch = "--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-print('loss:', 0.25)\n+print('loss:', 7)\n"
    (repo / "book" / "tries").mkdir(parents=True)
    (repo / "book" / "tries" / "01.patch").write_text(patch)
    assert lecture.main(["1", "--try"], repo) == 0
    assert "loss: 7" in capsys.readouterr().out
    assert (repo / "a.py").read_text() == GOOD


def error_of_try(repo, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        lecture.main(["1", "--try"], repo)
    assert stop.value.code == 2
    return capsys.readouterr().err
