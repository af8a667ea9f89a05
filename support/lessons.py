"""The lessons: the commits whose subject is "lesson NN: ...", and what their messages say."""

import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from support.cli import UserError

DATA = ("input.txt", "*.ipynb", "assets", "book/figures", "book/outputs", "tests/data")  # pathspecs
DIFF_ORDER = Path(__file__).with_name("diff_order.txt")  # for git: tests come last
SUBJECT = re.compile(r"lesson (\d\d+): (.+)")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Lesson:
    """A lesson's commit; `previous` is the number of the lesson before it, 0 for the first."""

    number: int
    title: str
    sha: str
    message: str
    previous: int
    corrections: tuple["Lesson", ...] = ()  # later lessons that correct this one
    better_expect: str | None = None  # a later lesson's "Expect NN: ..."
    errata: tuple[str, ...] = ()  # later commits' "Erratum NN: ..."

    def values(self, field: str) -> list[str]:
        return values(self.message, field)

    def value(self, field: str) -> str:
        return self.values(field)[0]

    def expect(self) -> str:
        return self.better_expect or self.value("Expect")

    def corrected(self) -> list[range]:
        """The numbers of the lessons that this one corrects, of its "Corrects: 24..36"."""
        found = filter(None, map(RANGE.fullmatch, self.values("Corrects")))
        return [range(int(match[1]), int(match[2]) + 1) for match in found]

    def banners(self) -> list["Lesson"]:
        """The corrections announced at this lesson: each is announced where its range begins."""
        starts = {other: [r.start for r in other.corrected()] for other in self.corrections}
        return [other for other in self.corrections if self.number in starts[other]]

    def note(self) -> str:
        notes = [f"corrected by {lesson.number}" for lesson in self.banners()]
        if self.errata:
            notes.append("1 erratum" if len(self.errata) == 1 else f"{len(self.errata)} errata")
        return "".join(f"  ({note})" for note in notes)


def values(message: str, field: str) -> list[str]:
    """The text after "field:" in each line of a commit's message that begins with it."""
    lines = message.splitlines()[1:]
    return [line[len(field) + 1 :].strip() for line in lines if line.startswith(f"{field}:")]


def told(message: str, field: str, number: int) -> list[str]:
    """The texts after "field NN:", where NN is a lesson's number, in a commit's message."""
    return re.findall(rf"^{field} 0*{number}: *(.+)", message, re.MULTILINE)


def git(root: Path, *args: str) -> str:
    """Run git in root and return what it prints."""
    try:
        done = subprocess.run(
            ["git", "-c", f"core.hooksPath={os.devnull}", *args],
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise UserError("git was not found: install it, the lessons are its commits") from None
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"git {args[0]}: {complaint[-1]}")
    return done.stdout


def read_lessons(root: Path) -> list[Lesson]:
    """All lessons reachable from HEAD, the oldest first."""
    try:
        shallow = git(root, "rev-parse", "--is-shallow-repository").strip() == "true"
    except UserError as error:
        raise UserError(f"{error} (the lessons are commits: get them with git clone)") from None
    if shallow:
        raise UserError("this clone is shallow and lacks lessons: type git fetch --unshallow")
    log = git(
        root,
        "log",
        "--reverse",
        "--topo-order",
        "--no-show-signature",
        "--encoding=UTF-8",
        "--format=%H%n%B%x00",
    )
    lessons: list[Lesson] = []
    commits = [entry.partition("\n")[::2] for entry in map(str.strip, log.split("\0")) if entry]
    for sha, message in commits:
        found = SUBJECT.fullmatch(message.partition("\n")[0])
        if found:
            previous = lessons[-1].number if lessons else 0
            lessons.append(Lesson(int(found[1]), found[2], sha, message, previous))
    if not lessons:
        raise UserError('no commit here has a subject like "lesson 01: ..."')
    messages = [message for _, message in commits]
    return [corrected(lesson, lessons, messages) for lesson in lessons]


def corrected(lesson: Lesson, lessons: list[Lesson], messages: list[str]) -> Lesson:
    """A lesson that knows what other commits say about it."""
    expects = [text for message in messages for text in told(message, "Expect", lesson.number)]
    return replace(
        lesson,
        corrections=tuple(
            other for other in lessons if any(lesson.number in r for r in other.corrected())
        ),
        better_expect=expects[-1] if expects else None,
        errata=tuple(text for m in messages for text in told(m, "Erratum", lesson.number)),
    )


def select(lessons: list[Lesson], which: str | None) -> list[Lesson]:
    """The lessons named by None (all), "8", "8..14" or "8.."."""
    if which is None:
        return lessons
    found = re.fullmatch(r"(\d+)(?:(\.\.)(\d*))?", which)
    if not found:
        raise UserError(f"{which} names no lesson: write 8, 8..14, 8.. or check")
    numbers = [lesson.number for lesson in lessons]
    first = int(found[1])
    last = int(found[3]) if found[3] else max(numbers) if found[2] else first
    for number in (first, last):
        if number not in numbers:
            raise UserError(
                f"no lesson {number:02d}: there are {min(numbers):02d} to {max(numbers):02d}"
            )
    if last < first:
        raise UserError(f"{which} is an empty range: write {last}..{first}")
    return [lesson for lesson in lessons if first <= lesson.number <= last]


def code_paths() -> list[str]:
    """The pathspec of everything but data."""
    return ["--", ".", *(f":(exclude){pattern}" for pattern in DATA)]


def lines_changed(root: Path, lesson: Lesson) -> tuple[int, int]:
    """Lines of code added and removed; binary files count nothing."""
    stat = git(root, "show", "--numstat", "--format=", lesson.sha, *code_paths())
    counts = re.findall(r"^(\d+)\t(\d+)\t", stat, re.MULTILINE)
    return sum(int(added) for added, _ in counts), sum(int(removed) for _, removed in counts)
