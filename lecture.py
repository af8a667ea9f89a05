"""Read and check the lessons: the commits whose subject is "lesson NN: ...".

    python lecture.py                 the lessons: number, subject, lines added and removed
    python lecture.py 8               one lesson: its message, then its diff
    python lecture.py 8 --run         run it, and compare what it prints with its Expect:
    python lecture.py 8 --try         run it with the change that its page proposes under Try
    python lecture.py book            render the book into _book/: open _book/index.html
    python lecture.py record 8        run it and keep what it prints, for its page in the book
    python lecture.py numbers         measure lines, loss, milliseconds and memory of each lesson
                                      (about 25 minutes, in which nothing else should run)
    python lecture.py check           check all of them; or some: check 8, check 8..14, check 8..
    python lecture.py check --newest --minutes 20

Checking a lesson means looking at the form of its message and, in a temporary worktree (as clean
as a clone), running its Run: line, finding its Expect: in the output, and running the test files
that the lesson changes. What fails is tried once more, as the machine may be busy. The seconds
shown are those of the Run: line. Exit status: 0 all is well, 1 a lesson fails, 2 the command line
or the repository is not usable.

A published lesson is never rewritten: a later one that corrects it says so, "Corrects: 24..36".
Those lessons are then run and checked with its changes, but with their own tests. Or it says what
to expect instead, "Expect 36: ...". An error in a message is corrected by a trailer in any later
commit, "Erratum 14: ...", which is shown below the message.

Checking and running need a POSIX shell. Data (see DATA) is left out of diffs and counts.
"""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from support import numbers
from support.cli import Parser, UserError, one_line_errors
from support.files import write_whole
from support.lessons import (
    DIFF_ORDER,
    RANGE,
    Lesson,
    code_paths,
    git,
    lines_changed,
    read_lessons,
    select,
)

ROOT = Path(__file__).resolve().parent
RUN_SECONDS = 60  # what a Run: line may take on two cores
LIMIT_SECONDS = 5 * RUN_SECONDS  # when it is stopped: a slow machine is not the lesson's mistake
FREE_WIDTH = re.compile(r"Run:|Expect( \d+)?:|Erratum \d+:")
FIELDS = ("Why", "Look at", "Run", "Expect")
SUBJECT_WIDTH, BODY_WIDTH = 72, 88
TAIL_LINES = 15
ROUNDS = 3  # of measuring all lessons, one after the other


class Outcome(NamedTuple):
    """What a command printed (stdout and stderr), its exit status, or None if it was stopped."""

    output: str
    status: int | None
    seconds: float

    def complaint(self) -> str:
        """Why the command failed, "" if it did not."""
        if self.status is None:
            return f"stopped after {self.seconds:.0f} s"
        return f"exit status {self.status}" if self.status else ""


def list_lessons(root: Path, lessons: list[Lesson]) -> None:
    for lesson in lessons:
        added, removed = lines_changed(root, lesson)
        lines = f"{f'+{added}':>6} {f'-{removed}':>6}"
        print(f"{lesson.number:02d}  {lesson.title:<61} {lines}{lesson.note()}")


def show(root: Path, lesson: Lesson) -> None:
    """Print a lesson's message, what is wrong in it, and its diff; git colours it on a terminal."""
    for correction in lesson.banners():
        print(f"[lesson {correction.number} corrects this one: {correction.title}]\n")
    print(lesson.message, end="\n\n")
    for erratum in lesson.errata:
        print(textwrap.fill(f"Erratum: {erratum}", BODY_WIDTH), end="\n\n")
    page = Path("book", f"{lesson.number:02d}.md")
    if (root / page).exists():
        print(f"Its page: {page}, or after python lecture.py book _book/{page.stem}.html\n")
    sys.stdout.flush()
    order = ("--no-ext-diff", f"-O{DIFF_ORDER}")
    subprocess.run(
        ["git", "--no-pager", "show", "--format=", *order, lesson.sha, *code_paths()], cwd=root
    )


def faults(lesson: Lesson) -> list[str]:
    """What is wrong with the form of a lesson's message."""
    subject, *body = lesson.message.splitlines()
    found = []
    if lesson.number != lesson.previous + 1:
        found.append(f"comes after {lesson.previous:02d}: numbers are consecutive from 01")
    if len(subject) > SUBJECT_WIDTH:
        found.append(f"subject has {len(subject)} characters, more than {SUBJECT_WIDTH}")
    if body and body[0]:
        found.append("no empty line after the subject")
    for line in body:
        if len(line) > BODY_WIDTH and not FREE_WIDTH.match(line):
            found.append(f"line has {len(line)} characters, more than {BODY_WIDTH}: {line}")
    for field in FIELDS:
        values = list(filter(None, lesson.values(field)))
        if len(values) != 1:
            found.append(f"needs one line '{field}: ...', has {len(values)}")
    for pattern in lesson.values("Expect"):
        try:
            if re.search(pattern, "", re.MULTILINE):
                found.append("Expect: is found even if nothing is printed")
        except re.error as error:
            found.append(f"Expect: is not a regular expression: {error}")
    for value in lesson.values("Corrects"):
        if not RANGE.fullmatch(value):
            found.append(f"Corrects: {value} is not a range like 24..36")
    return found


def write_commands(folder: Path) -> None:
    """Write commands python, python3 and torchrun that use the interpreter running this file."""
    python = shlex.quote(sys.executable)
    commands = {
        "python": python,
        "python3": python,
        "torchrun": f"{python} -m torch.distributed.run",
    }
    folder.mkdir()
    for name, command in commands.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)


def correct(root: Path, lesson: Lesson, tree: Path) -> None:
    """Apply a lesson's corrections, except their tests, to a checkout of it."""
    for correction in lesson.corrections:
        patch = tree.parent / "correction.patch"
        patch.write_text(
            git(root, "show", "--format=", correction.sha, "--", ".", ":(exclude)tests")
        )
        git(tree, "apply", str(patch))


@contextmanager
def worktree(root: Path, lesson: Lesson) -> Iterator[tuple[Path, dict[str, str]]]:
    """A temporary checkout of a lesson, corrected, and the environment to run its commands in."""
    folder = Path(tempfile.mkdtemp(prefix="lecture-")).resolve()
    tree = folder / "checkout"
    try:
        git(root, "worktree", "add", "--quiet", "--detach", str(tree), lesson.sha)
        correct(root, lesson, tree)
        write_commands(folder / "bin")
        path = (str(folder / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
        # Unbuffered, so that a command that had to be stopped still shows how far it came.
        yield tree, {**os.environ, "PATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # Not prune, which would take a worktree that a reader has moved by hand. Twice --force, as
        # one that was interrupted while it was added is locked; if it never was there, all is well.
        with suppress(UserError):
            git(root, "worktree", "remove", "--force", "--force", str(tree))


def stop(process: subprocess.Popen) -> None:
    """End what is left of a command's process group."""
    # torchrun's workers are in sessions of their own: it ends them if it is asked politely.
    with suppress(ProcessLookupError, PermissionError):
        for signal_number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
            os.killpg(process.pid, signal_number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.02)


def listen_to_interrupts() -> None:
    """In a child: heed SIGINT, which background jobs of a script inherit ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(command: str, tree: Path, env: dict[str, str]) -> Outcome:
    """Run a shell command in a worktree; it is stopped after LIMIT_SECONDS."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=tree,
            env=env,
            start_new_session=True,
            preexec_fn=listen_to_interrupts,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            seconds, size = time.monotonic() - start, os.fstat(log.fileno()).st_size
            stop(process)
        log.seek(0)
        output = log.read(size).decode(errors="replace")  # without complaints about being stopped
    return Outcome(output.replace("\r\n", "\n").replace("\r", "\n"), status, seconds)


def changed_tests(root: Path, lesson: Lesson) -> list[str]:
    """The test files that a lesson adds or changes."""
    return git(
        root,
        "diff-tree",
        "--root",
        "--no-commit-id",
        "--name-only",
        "-r",
        "--diff-filter=d",
        lesson.sha,
        "--",
        ":(glob)tests/**/test_*.py",
    ).splitlines()


def tail(output: str) -> str:
    """The last lines of an output, indented."""
    return "".join(f"    | {line}\n" for line in output.splitlines()[-TAIL_LINES:])


def attempt(root: Path, lesson: Lesson) -> tuple[list[str], float]:
    """Run a lesson and its tests; return the reasons why it fails, and the seconds of Run:."""
    reasons, expect = [], lesson.expect()
    with worktree(root, lesson) as (tree, env):
        ran = run(lesson.value("Run"), tree, env)
        if ran.complaint():
            reasons.append(f"    Run: {ran.complaint()}\n{tail(ran.output)}")
        elif not re.search(expect, ran.output, re.MULTILINE):
            reasons.append(f"    Expect: not found: {expect}\n{tail(ran.output)}")
        tests = changed_tests(root, lesson)
        if tests:
            git(tree, "clean", "-ffdxq")  # tests, too, start from a clean checkout
            tested = run(f"python -m pytest -q {shlex.join(tests)}", tree, env)
            if tested.complaint():
                reasons.append(f"    tests: {tested.complaint()}\n{tail(tested.output)}")
    return reasons, ran.seconds


def check(root: Path, lesson: Lesson) -> bool:
    """Check one lesson, print its line (and the reasons if it fails)."""
    reasons, seconds, note = [f"    message: {fault}\n" for fault in faults(lesson)], 0.0, ""
    if not reasons:
        reasons, seconds = attempt(root, lesson)
        if reasons:
            reasons, seconds = attempt(root, lesson)
            note = "  (at the second try)"
    verdict = "FAILED" if reasons else "ok"
    if seconds > RUN_SECONDS:
        note += f"  (more than {RUN_SECONDS} s)"
    title = lesson.title + lesson.note()
    print(f"lesson {lesson.number:02d} {verdict:<6} {seconds:5.1f} s  {title}{note}")
    print("".join(reasons), end="", flush=True)
    return not reasons


def check_all(root: Path, lessons: list[Lesson], minutes: float | None) -> int:
    """Check lessons in the order given; start none when the minutes are used."""
    start, passed, failed = time.monotonic(), 0, 0
    for position, lesson in enumerate(lessons):
        if minutes is not None and time.monotonic() - start >= 60 * minutes:
            left_out = " ".join(f"{other.number:02d}" for other in lessons[position:])
            print(f"left out after {minutes:g} minutes: {left_out}")
            break
        if check(root, lesson):
            passed += 1
        else:
            failed += 1
    print(f"{passed} passed, {failed} failed")
    if passed + failed == 0:
        print("nothing was checked: give it more --minutes")
    return 0 if passed and not failed else 1


def run_lesson(root: Path, lesson: Lesson) -> int:
    """Run one lesson; print its output, its Expect:, and what matches."""
    print(f"lesson {lesson.number:02d}: {lesson.title}")
    problems = faults(lesson)
    if problems:
        print(*(f"message: {fault}" for fault in problems), sep="\n")
        return 1
    command, expect = lesson.value("Run"), lesson.expect()
    print(f"$ {command}", flush=True)
    with worktree(root, lesson) as (tree, env):
        ran = run(command, tree, env)
    found = re.search(expect, ran.output, re.MULTILINE)
    print(ran.output.rstrip("\n"), f"\nExpect:  {expect}", sep="\n")
    print(f"Printed: {found[0]}" if found else "Printed: nothing like it")
    if ran.complaint():
        print(f"Run:     {ran.complaint()}")
    well = found and not ran.complaint()
    print(f"{'OK' if well else 'FAILED'} after {ran.seconds:.1f} s")
    return 0 if well else 1


def try_lesson(root: Path, lesson: Lesson) -> int:
    """Run one lesson with book/tries/NN.patch applied, and print what it does then.

    Raises UserError if there is no such patch.
    """
    patch = root / "book" / "tries" / f"{lesson.number:02d}.patch"
    if not patch.exists():
        raise UserError(f"lesson {lesson.number:02d} has no patch: make its Try's change by hand")
    print(f"{patch.read_text(encoding='utf-8')}\n$ {lesson.value('Run')}", flush=True)
    with worktree(root, lesson) as (tree, env):
        git(tree, "apply", str(patch))
        ran = run(lesson.value("Run"), tree, env)
    print(ran.output.rstrip("\n"), ran.complaint(), sep="\n")
    return 0


def record(root: Path, lesson: Lesson) -> None:
    """Run one lesson and keep what it printed. Raises UserError if it is not what was expected."""
    with worktree(root, lesson) as (tree, env):
        ran = run(lesson.value("Run"), tree, {**env, "TQDM_DISABLE": "1"})  # no progress bars
    if ran.complaint() or not re.search(lesson.expect(), ran.output, re.MULTILINE):
        raise UserError(
            f"lesson {lesson.number:02d} failed: python lecture.py {lesson.number} --run"
        )
    path = root / "book" / "outputs" / f"{lesson.number:02d}.txt"
    temporary = re.escape(tempfile.gettempdir())
    plain = re.sub(rf"\x1b\[[\d;]*m|{temporary}(/[^\s/]+)*/", "", ran.output)
    write_whole(path, plain)  # without colours, and without this machine's folders
    print(f"{path.relative_to(root)}, after {ran.seconds:.1f} s", flush=True)


def measure_numbers(root: Path, lessons: list[Lesson]) -> None:
    """book/numbers.csv, which the pages and python -m experiments history read."""
    with ExitStack() as stack:
        trees = {each.number: stack.enter_context(worktree(root, each)) for each in lessons}
        rows = numbers.measure(trees, ROUNDS)
    path = root / "book" / "numbers.csv"
    write_whole(path, numbers.text(rows))
    print(f"{path.relative_to(root)}; its picture: python -m experiments history")


def render_book(root: Path, lessons: list[Lesson]) -> None:
    try:
        from support.book import render  # what it needs is in requirements-dev.txt only
    except ImportError as error:
        raise UserError(
            f"the book needs {error.name}: pip install -r requirements-dev.txt"
        ) from None
    render(root, lessons, root / "_book")
    print(f"open {root / '_book' / 'index.html'}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, prog="lecture.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="?", help="a lesson's number, or check, book, record or numbers"
    )
    parser.add_argument("which", nargs="?", help="with check, record, numbers: 8, 8..14 or 8..")
    parser.add_argument("--run", action="store_true", help="with a number: run the lesson")
    parser.add_argument(
        "--try", dest="trying", action="store_true", help="with a number: change it"
    )
    parser.add_argument("--newest", action="store_true", help="with check: the newest first")
    parser.add_argument("--minutes", type=float, help="with check: start no lesson after this")
    args = parser.parse_args(argv)
    checking = args.what == "check"
    if not checking and (args.newest or args.minutes is not None):
        parser.error("--newest and --minutes go with check")
    if args.which and args.what not in ("check", "record", "numbers"):
        parser.error("a second range goes with check, record and numbers")
    if (args.run or args.trying) and args.what in (None, "check", "book", "record", "numbers"):
        parser.error("--run and --try go with a lesson's number")
    return args


def act(args: argparse.Namespace, root: Path) -> int:
    """Do what the command line says; return the exit status."""
    lessons = read_lessons(root)
    if args.what == "check":
        chosen = select(lessons, args.which)
        return check_all(root, chosen[::-1] if args.newest else chosen, args.minutes)
    if args.what == "book":
        render_book(root, lessons)
        return 0
    if args.what == "numbers":
        measure_numbers(root, select(lessons, args.which))
        return 0
    if args.what == "record":
        for lesson in select(lessons, args.which):
            record(root, lesson)
        return 0
    chosen = select(lessons, args.what)
    if args.trying:
        return max(try_lesson(root, lesson) for lesson in chosen)
    if args.run:
        return max(run_lesson(root, lesson) for lesson in chosen)
    if args.what is None:
        list_lessons(root, chosen)
    else:
        for lesson in chosen:
            show(root, lesson)
    return 0


def main(argv: list[str] | None = None, root: Path = ROOT) -> int:
    """The command line; returns the exit status, but for a user's mistake, which exits with 2."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        os.environ.pop(name, None)  # set by hooks and `git rebase --exec` for another repository
    # As an exception, so that worktrees and processes are cleaned up as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with one_line_errors():
            status = act(parse(argv), root)
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # `python lecture.py | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("lecture.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
