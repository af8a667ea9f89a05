"""The book: book/NN.md and what the lessons' commits hold, rendered into a folder of HTML.

A page is Markdown as a code host shows it. Two kinds of fenced blocks are filled in here:

    ```code                      a definition or lines of a file, as they are at this lesson,
    train_gpt2.py GPT.forward    with what the lesson added and removed marked
    ```
    ```output                    what Run: printed when it was recorded (book/outputs/NN.txt)
    python train_gpt2.py
    ```

A lesson without a page is shown by its message and its diff. Links between pages are written as
on a code host (03.md, glossary.md#logits); figures are put into the page, so that they follow its
colours.
"""

import ast
import html
import json
import re
import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.util import ClassNotFound

from support import numbers
from support.cli import UserError
from support.lessons import DIFF_ORDER, Lesson, code_paths, git

WORDS_A_MINUTE, LINES_A_MINUTE = 180, 15  # of text and of code
HEAD, TAIL = 14, 18  # lines of a long output that are not folded
ITEM = re.compile(r"- (?:\[(\d\d) · (.+)\]\(\1\.md\)|(\d\d) · (.+))")  # of the contents
BESIDE = {"README": "How to read this", "results": "Results", "glossary": "Glossary"}
MARKS = {"+": "added", "-": "removed", " ": "same"}


class Section(NamedTuple):
    title: str
    lessons: list[tuple[int, str]]  # number and title


class Line(NamedTuple):
    mark: str  # "+", "-" or " "
    number: int | None  # in the new file
    text: str


@dataclass(frozen=True)
class Source:
    """A file as it is at a lesson, and how the lesson changed it."""

    root: Path
    lesson: Lesson
    path: str

    @cached_property
    def text(self) -> str:
        return git(self.root, "show", f"{self.lesson.sha}:{self.path}")

    @cached_property
    def lines(self) -> list[Line]:
        """All lines, and among them those that the lesson removed."""
        everything = ("show", "--format=", "--no-ext-diff", "-U1000000", self.lesson.sha)
        diff = git(self.root, *everything, "--", self.path)
        if not diff:
            return [Line(" ", i, line) for i, line in enumerate(self.text.splitlines(), 1)]
        return numbered(diff.partition("\n@@")[2].splitlines()[1:])

    def select(self, which: str) -> list[Line]:
        """The lines "12-30", or those of a definition: "GPT.forward"."""
        span = re.fullmatch(r"(\d+)-(\d+)", which)
        first, last = map(int, span.groups()) if span else self.span(which)
        inside = [i for i, line in enumerate(self.lines) if line.number in range(first, last + 1)]
        if not inside:
            raise UserError(f"{self.path} has no lines {which} at lesson {self.lesson.number:02d}")
        before = takewhile(lambda line: line.mark == "-", reversed(self.lines[: inside[0]]))
        return self.lines[inside[0] - len(list(before)) : inside[-1] + 1]

    def span(self, name: str) -> tuple[int, int]:
        """First and last line of the function, class, method or constant of this name."""
        node: ast.AST = ast.parse(self.text)
        for part in name.split("."):
            found = [child for child in ast.iter_child_nodes(node) if part in names(child)]
            if not found:
                raise UserError(f"{self.path} has no {name} at lesson {self.lesson.number:02d}")
            node = found[0]
        decorators = getattr(node, "decorator_list", [])
        return min(n.lineno for n in (node, *decorators)), node.end_lineno


def names(node: ast.AST) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return [node.name] if hasattr(node, "name") else []


def numbered(diff: Iterable[str]) -> list[Line]:
    """The lines of a hunk that begins at line 1."""
    lines, number = [], 0
    for line in diff:
        if line[:1] not in MARKS:  # "\ No newline at end of file"
            continue
        number += line[0] != "-"
        lines.append(Line(line[0], None if line[0] == "-" else number, line[1:]))
    return lines


def code_html(lexer: Lexer, lines: list[Line]) -> str:
    """Coloured lines without their common indentation; where only some were changed, marked."""
    text = textwrap.dedent("".join(f"{line.text}\n" for line in lines)).splitlines()
    new = iter(
        coloured(lexer, [t for t, line in zip(text, lines, strict=True) if line.mark != "-"])
    )
    old = iter(
        coloured(lexer, [t for t, line in zip(text, lines, strict=True) if line.mark == "-"])
    )
    is_marked = len({line.mark for line in lines}) > 1
    spans = (
        f'<span class="{MARKS[line.mark] if is_marked else "same"}">'
        f"{next(old if line.mark == '-' else new)}\n</span>"
        for line in lines
    )
    return f'<pre class="code"><code>{"".join(spans)}</code></pre>'


def coloured(lexer: Lexer, lines: list[str]) -> list[str]:
    """HTML for each line, its tokens marked by kind."""
    text = "".join(f"{line}\n" for line in lines)
    return highlight(text, lexer, HtmlFormatter(nowrap=True)).removesuffix("\n").split("\n")


def lexer_of(path: str) -> Lexer:
    try:
        return get_lexer_for_filename(path, stripnl=False)
    except ClassNotFound:
        return get_lexer_by_name("text", stripnl=False)


def shown_code(root: Path, lesson: Lesson, reference: str) -> str:
    """The block for "FILE", "FILE NAME" or "FILE 12-30"."""
    path, _, which = reference.strip().partition(" ")
    source = Source(root, lesson, path)
    lines = source.select(which) if which else source.lines
    new = all(line.mark == "+" for line in lines)
    first = next(line.number for line in lines if line.number)
    where = f"{path} · {which}" if which and not which[0].isdigit() else f"{path}, line {first}"
    return source_html(where + " (new)" * new, code_html(lexer_of(path), lines))


def source_html(label: str, code: str) -> str:
    return f'<figure class="source"><figcaption>{html.escape(label)}</figcaption>{code}</figure>'


def output_html(lesson: Lesson, recorded: str) -> str:
    """What Run: printed: the match of Expect: marked, the middle of a long output folded."""
    recorded = re.sub(r"\n{4,}", "\n\n\n", recorded)
    found = re.search(lesson.expect(), recorded, re.MULTILINE)
    start, end = found.span() if found else (0, 0)
    marked = f"{recorded[:start]}\0{recorded[start:end]}\1{recorded[end:]}" if found else recorded
    lines = html.escape(marked).replace("\0", "<mark>").replace("\1", "</mark>").splitlines()
    head, middle, tail = lines[:HEAD], lines[HEAD:-TAIL], lines[-TAIL:]
    if len(lines) <= HEAD + TAIL + 3:
        return f'<pre class="output">{chr(10).join(lines)}</pre>'
    return (
        f'<pre class="output">{chr(10).join(head)}</pre>'
        f"<details><summary>{len(middle)} lines more</summary>"
        f'<pre class="output">{chr(10).join(middle)}</pre></details>'
        f'<pre class="output">{chr(10).join(tail)}</pre>'
    )


def figure_html(path: Path, words: str) -> str:
    """An SVG as a part of the page, whose colours it takes: without a style of its own."""
    if not path.exists():
        raise UserError(f"{path} is missing: python -m experiments draws the figures")
    svg = path.read_text(encoding="utf-8")
    svg = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return f'<span class="figure" role="img" aria-label="{html.escape(words)}">{svg}</span>'


class Pages:
    """Renders Markdown, with what a lesson's page refers to."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "book"
        self.terms = glossary(self.folder / "glossary.md")
        self.markdown = MarkdownIt("commonmark", {"html": True, "typographer": False})
        self.markdown.enable(["table", "strikethrough"]).use(anchors_plugin, max_level=3)
        rules = {"fence": self.fence, "link_open": self.link, "image": self.image}
        for name, rule in rules.items():
            self.markdown.add_render_rule(name, lambda _, *args, rule=rule: rule(*args))

    def path(self, lesson: Lesson) -> Path:
        return self.folder / f"{lesson.number:02d}.md"

    def html(self, text: str, lesson: Lesson | None = None) -> str:
        return self.markdown.render(text, {"lesson": lesson})

    def fence(self, tokens, i, options, env) -> str:
        kind, content, lesson = tokens[i].info.strip(), tokens[i].content, env["lesson"]
        if kind == "code":
            return "".join(shown_code(self.root, lesson, ref) for ref in content.splitlines())
        if kind == "output":
            return f'<pre class="command">$ {html.escape(content.strip())}</pre>' + output_html(
                lesson, self.recorded(lesson)
            )
        lines = [Line(" ", None, line) for line in content.splitlines()]
        name = "pycon" if ">>>" in content else kind or "text"
        return code_html(get_lexer_by_name(name, stripnl=False), lines)

    def recorded(self, lesson: Lesson) -> str:
        path = self.folder / "outputs" / f"{lesson.number:02d}.txt"
        if not path.exists():
            raise UserError(f"{path} is missing: python lecture.py record {lesson.number}")
        return path.read_text(encoding="utf-8")

    def link(self, tokens, i, options, env) -> str:
        target = tokens[i].attrGet("href")
        if target.startswith("glossary.md#"):
            term = target.partition("#")[2]
            tokens[i].attrSet("title", self.terms.get(term, ""))
            tokens[i].attrSet("class", "term")
        if not target.startswith("http"):
            file, dot, rest = target.partition(".md")
            tokens[i].attrSet("href", f"{html_name(file)}.html{rest}" if dot else target)
        return self.markdown.renderer.renderToken(tokens, i, options, env)

    def image(self, tokens, i, options, env) -> str:
        return figure_html(self.folder / tokens[i].attrGet("src"), tokens[i].content)


def html_name(file: str) -> str:
    """The page's name in the rendered book."""
    return "index" if file == "README" else file


def slug(title: str) -> str:
    """A heading's anchor, as code hosts and the anchors plugin make it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def glossary(path: Path) -> dict[str, str]:
    """The terms of the glossary, by anchor, and what they mean in plain text."""
    entries = re.findall(
        r"^### (.+)\n+((?:.+\n?)+)", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    plain = re.compile(r"\[([^]]*)\]\([^)]*\)|[*`]")
    return {slug(term): " ".join(plain.sub(r"\1", meaning).split()) for term, meaning in entries}


def contents(text: str) -> list[Section]:
    """The sections of book/README.md: headings followed by a list of lessons."""
    sections = []
    for line in text.splitlines():
        if line.startswith("## "):
            sections.append(Section(line[3:], []))
        elif item := ITEM.fullmatch(line):
            number, title, bare_number, bare_title = item.groups()
            sections[-1].lessons.append((int(number or bare_number), title or bare_title))
    return [section for section in sections if section.lessons]


def message_html(message: str) -> str:
    """A commit's message: paragraphs, and as they are the lines that are indented."""
    parts = []
    for block in message.partition("\n")[2].strip().split("\n\n"):
        if re.search(r"^( {2,}|\|)", block, re.MULTILINE):
            parts.append(f"<pre>{html.escape(block)}</pre>")
            continue
        fields = re.split(r"\n(?=[A-Z][a-z]+( at| \d+)?: )", block)
        for text in filter(None, fields[:1] + fields[2::2]):
            named = re.sub(r"^(\w+(?: at| \d+)?):", r"<b>\1</b>", html.escape(text))
            parts.append(f"<p>{named}</p>")
    return "".join(parts)


def diff_html(root: Path, lesson: Lesson) -> tuple[str, str]:
    """The lesson's whole diff, by file: code, and tests."""
    show = ("show", "--format=", "--no-ext-diff", f"-O{DIFF_ORDER}", lesson.sha)
    text = git(root, *show, *code_paths())
    parts: dict[bool, list[str]] = {False: [], True: []}
    for diff in re.split(r"^(?=diff --git )", text, flags=re.MULTILINE)[1:]:
        path = re.search(r"^diff --git a/.* b/(.*)$", diff, re.MULTILINE)[1]
        hunks = re.split(r"^@@.*@@(.*)\n", diff, flags=re.MULTILINE)[1:]
        blocks = [code_html(lexer_of(path), numbered(hunk.splitlines())) for hunk in hunks[1::2]]
        body = '<div class="gap">⋮</div>'.join(blocks) or "<p>(not shown)</p>"
        parts[path.startswith("tests/")].append(source_html(path, body))
    return "".join(parts[False]), "".join(parts[True])


def minutes(page: str) -> int:
    """How long the page takes, without what is folded."""
    open_page = re.sub(r"<details.*?</details>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    lines = sum(code.count("\n") for code in re.findall(r"<pre.*?</pre>", open_page, re.DOTALL))
    words = re.sub(r"<pre.*?</pre>|<[^>]+>", " ", open_page, flags=re.DOTALL).split()
    return max(1, round(len(words) / WORDS_A_MINUTE + lines / LINES_A_MINUTE))


def lesson_html(pages: Pages, lesson: Lesson) -> str:
    """The page's text, or for a lesson without one the commit's message."""
    if pages.path(lesson).exists():
        return pages.html(pages.path(lesson).read_text(encoding="utf-8"), lesson)
    title = html.escape(lesson.title)
    return f"<h1>{lesson.number:02d} · {title}</h1>{message_html(lesson.message)}"


def numbers_words(path: Path, number: int) -> str:
    """What was measured of a lesson; nothing where it was not."""
    rows = {row.lesson: row for row in numbers.read(path)} if path.exists() else {}
    return numbers.in_words(rows[number], rows.get(number - 1)) if number in rows else ""


def searchable(name: str, page: str, body: str) -> list[list[str]]:
    """The sections of a page: address, the page's short name, the section's title, its words."""
    sections = []
    for part in re.split(r"(?=<h[1-3] id=)", body):
        if found := re.match(r'<h[1-3] id="([^"]*)"[^>]*>(.*?)</h\d>', part, re.DOTALL):
            heading, words = (
                " ".join(
                    html.unescape(
                        re.sub(r"<svg.*?</svg>|<[^>]+>", " ", text, flags=re.DOTALL)
                    ).split()
                )
                for text in (found[2], part[found.end() :])
            )
            sections.append([f"{name}.html#{found[1]}", page, heading, words])
    return sections


def render(root: Path, lessons: list[Lesson], out: Path) -> None:
    """Write index.html, a page for each lesson, and the pages beside them into a folder.

    Raises UserError for a reference to what is not there.
    """
    pages, folder = Pages(root), root / "book"
    out.mkdir(exist_ok=True)
    shutil.copy(folder / "book.css", out)
    sections = contents((folder / "README.md").read_text(encoding="utf-8"))
    titles = {number: title for section in sections for number, title in section.lessons}
    missing = [lesson.number for lesson in lessons if lesson.number not in titles]
    if missing:
        raise UserError(f"book/README.md does not list lesson {missing[0]:02d}")
    loader = FileSystemLoader(folder)
    template = Environment(loader=loader, undefined=StrictUndefined).get_template("page.html")
    search: list[list[str]] = []

    def write(name: str, **values: Any) -> None:
        page = name if values["lesson"] else values["title"]
        search.extend(searchable(name, page, values["body"]))
        page = template.render(
            sections=sections, titles=titles, beside=BESIDE, html_name=html_name, **values
        )
        (out / f"{name}.html").write_text(page, encoding="utf-8")

    for file, title in BESIDE.items():
        body = pages.html((folder / f"{file}.md").read_text(encoding="utf-8"))
        values = {"title": title, "body": body, "lesson": None, "before": None}
        write(html_name(file), after=lessons[0].number if file == "README" else None, **values)
    for lesson in lessons:
        write(f"{lesson.number:02d}", **lesson_values(pages, lesson, titles, sections))
    script = (folder / "search.js").read_text(encoding="utf-8")
    words = json.dumps(search, ensure_ascii=False)
    (out / "search.js").write_text(f"const SECTIONS = {words};\n{script}", encoding="utf-8")


def lesson_values(
    pages: Pages, lesson: Lesson, titles: dict[int, str], sections: list[Section]
) -> dict[str, Any]:
    """What the template shows of a lesson."""
    body, (code, tests) = lesson_html(pages, lesson), diff_html(pages.root, lesson)
    return {
        "title": titles[lesson.number],
        "section": next(s.title for s in sections if lesson.number in dict(s.lessons)),
        "lesson": lesson,
        "body": body,
        "minutes": minutes(body),
        "has_page": pages.path(lesson).exists(),
        "message": message_html(lesson.message),
        "code": code,
        "tests": tests,
        "can_try": (pages.folder / "tries" / f"{lesson.number:02d}.patch").exists(),
        "numbers": numbers_words(pages.folder / "numbers.csv", lesson.number),
        "before": lesson.previous or None,
        "after": lesson.number + 1 if lesson.number + 1 in titles else None,
    }
