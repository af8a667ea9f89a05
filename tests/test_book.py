"""The book: it renders, its references and links are there, and its examples are right."""

import doctest
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from support.cli import UserError

pytest.importorskip("markdown_it", reason="requirements-dev.txt brings it")

from lecture import ROOT
from support.book import ITEM, Pages, Source, contents, glossary, message_html, render, shown_code
from support.lessons import Lesson, git, read_lessons
from test_lecture import commit, repo  # noqa: F401

BOOK = ROOT / "book"
PAGES = sorted(BOOK.glob("[0-9][0-9].md"))
LESSONS = {lesson.number: lesson for lesson in read_lessons(ROOT)}


class Page(HTMLParser):
    """The links, the anchors and the texts of a rendered page's code."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag in ("a", "link"):
            self.links.append(attrs["href"])


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("book")
    render(ROOT, list(LESSONS.values()), out)
    return out


def test_each_lesson_has_a_page_that_is_reached_from_the_contents(rendered):
    names = {f"{number:02d}.html" for number in LESSONS}
    assert {path.name for path in rendered.glob("[0-9]*.html")} == names
    assert names <= set(Page(rendered / "index.html").links)


def test_the_time_to_read_is_what_the_pages_say(rendered):
    minutes = {
        int(path.stem): int(re.search(r"<span>(\d+) min</span>", path.read_text())[1])
        for path in rendered.glob("[0-9]*.html")
    }
    shortest, longest = min(minutes.values()), max(minutes.values())
    hours = round(sum(minutes.values()) / 30) / 2  # to the half hour
    readme, book = (
        " ".join((ROOT / n).read_text().split()) for n in ("README.md", "book/README.md")
    )
    assert f"about {hours:g} hours of reading, {shortest} to {longest} minutes a page" in readme
    assert f"of {shortest} to {longest} minutes each, about {hours:g} hours in all" in book
    rows = re.findall(
        r"^\| \[(\d\d)\].*?(?:-(\d\d))? \|.*\| (\d+) min \|$",
        (ROOT / "README.md").read_text(),
        re.M,
    )
    told = {int(first): int(total) for first, _, total in rows}
    counted = {
        int(first): sum(minutes[n] for n in range(int(first), int(last or first) + 1))
        for first, last, _ in rows
    }
    assert told == counted


def test_no_link_leads_nowhere(rendered):
    pages = {path.name: Page(path) for path in rendered.glob("*.html")}
    assert len(pages) > 60
    for name, page in pages.items():
        for link in filter(lambda link: not link.startswith("http"), page.links):
            file, _, anchor = link.partition("#")
            assert (rendered / (file or name)).is_file(), f"{name}: {link}"
            if anchor:
                assert unquote(anchor) in pages[file or name].anchors, f"{name}: {link}"


def test_the_contents_have_the_titles_of_the_pages():
    sections = contents((BOOK / "README.md").read_text(encoding="utf-8"))
    titles = {number: title for section in sections for number, title in section.lessons}
    assert list(titles) == list(LESSONS)
    for path in PAGES:
        heading = path.read_text(encoding="utf-8").partition("\n")[0]
        assert heading == f"# {path.stem} · {titles[int(path.stem)]}"
        assert f"]({path.name})" in (BOOK / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_examples_on_a_page_are_right(path):
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    examples = "\n\n".join(block for block in blocks if ">>>" in block)
    test = doctest.DocTestParser().get_doctest(examples, {}, path.name, str(path), 0)
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    torch.set_printoptions(profile="default")  # a page may change them
    assert failed == 0, "".join(report)


def test_the_changes_to_try_apply_to_their_lessons(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    patches = list((BOOK / "tries").glob("*.patch"))
    assert patches
    for patch in patches:
        git(ROOT, "read-tree", LESSONS[int(patch.stem)].sha)
        git(ROOT, "apply", "--cached", "--check", str(patch))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_an_output_on_a_page_is_what_the_lesson_runs(path):
    lesson = LESSONS[int(path.stem)]
    for command in re.findall(r"```output\n(.*?)\n```", path.read_text(encoding="utf-8")):
        assert command == lesson.value("Run")
        recorded = Pages(ROOT).recorded(lesson)
        assert re.search(lesson.expect(), recorded, re.MULTILINE)


def test_recorded_outputs_name_no_place_on_a_machine():
    for path in (BOOK / "outputs").glob("*.txt"):
        assert not re.search(r"/(home|tmp|root|work)/", path.read_text(encoding="utf-8")), path


def test_each_term_is_explained_once_in_order_and_used():
    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert terms == sorted(set(terms), key=str.lower)
    assert len(glossary(BOOK / "glossary.md")) == len(terms)
    everything = "".join(
        path.read_text(encoding="utf-8") for path in [*PAGES, BOOK / "glossary.md"]
    )
    unused = [term for term in glossary(BOOK / "glossary.md") if f"#{term})" not in everything]
    assert not unused


FILE = '''"""A file."""

LIMIT = 3


class Thing:
    @property
    def old(self):
        return 1

    def kept(self):
        return LIMIT
'''


@pytest.fixture
def changed(repo) -> Lesson:  # noqa: F811
    """The second lesson of a repository: it changes one method and keeps the other."""
    commit(repo, "lesson 01: a thing", {"a.py": FILE})
    commit(repo, "lesson 02: a better thing", {"a.py": FILE.replace("return 1", "return 2 < 3")})
    return read_lessons(repo)[1]


def test_a_definition_is_shown_as_the_lesson_left_it(repo, changed):  # noqa: F811
    lines = Source(repo, changed, "a.py").select("Thing.old")
    assert [(line.mark, line.text.strip()) for line in lines] == [
        (" ", "@property"),
        (" ", "def old(self):"),
        ("-", "return 1"),
        ("+", "return 2 < 3"),
    ]
    shown = shown_code(repo, changed, "a.py Thing.old")
    assert shown.index('class="removed"') < shown.index('class="added"')
    assert "&lt;" in shown
    assert "removed" not in shown_code(repo, changed, "a.py Thing.kept")
    assert "LIMIT" in shown_code(repo, changed, "a.py LIMIT")
    assert [line.number for line in Source(repo, changed, "a.py").select("5-6")] == [5, 6]


def test_a_file_that_is_new_is_not_marked_line_by_line(repo, changed):  # noqa: F811
    shown = shown_code(repo, read_lessons(repo)[0], "a.py Thing.kept")
    assert "(new)" in shown and "added" not in shown


@pytest.mark.parametrize("reference", ["a.py Thing.none", "b.py Thing", "a.py 90-99"])
def test_a_reference_to_what_is_not_there_is_an_error(repo, changed, reference):  # noqa: F811
    with pytest.raises(UserError):
        shown_code(repo, changed, reference)


def test_a_message_becomes_paragraphs_that_keep_what_is_indented():
    html = message_html("t\n\nWhy: a < b\nand c.\nLook at: x.py\n\n    a  table\n\nRun: y")
    assert html == (
        "<p><b>Why</b> a &lt; b\nand c.</p><p><b>Look at</b> x.py</p>"
        "<pre>    a  table</pre><p><b>Run</b> y</p>"
    )


def test_lessons_are_listed_with_and_without_a_page():
    assert ITEM.fullmatch("- [08 · A title](08.md)").groups() == ("08", "A title", None, None)
    assert ITEM.fullmatch("- 09 · a title").groups() == (None, None, "09", "a title")
    assert not ITEM.fullmatch("- [08 · A title](09.md)")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


needs_a_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")


@needs_a_browser
def test_a_browser_turns_pages_and_unfolds_without_network(rendered):
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 800}, offline=True)
            page.goto((rendered / "08.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            answer = page.locator("article details p").first
            assert not answer.is_visible()
            page.locator("article summary").first.click()
            assert answer.is_visible()
            page.locator("#contents input").fill("label smoothing nowhere")
            assert page.locator("#contents .found a").count() == 0
            page.locator("#contents input").fill("temperature")
            assert page.locator("#contents .found a").first.text_content().startswith("Glossary")
            page.locator("a[rel=next]").click()
            assert page.title().startswith(
                contents((BOOK / "README.md").read_text())[0].lessons[8][1]
            )
        browser.close()


PANELS = """() => [...document.querySelectorAll(".figure svg")].map(svg => {
    const sides = box => [box.left, box.right, box.top, box.bottom].map(Math.round)
    const panels = [...svg.querySelectorAll("g[id^=axes]")]
    return [svg.closest(".figure"), ...panels].map(one => sides(one.getBoundingClientRect()))
})"""


@needs_a_browser
def test_on_a_phone_panels_lie_below_each_other_within_their_figure(rendered):
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        figures = {}
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 800}, offline=True)
            for name in ("19", "results"):
                page.goto((rendered / f"{name}.html").as_uri())
                figures[width] = [*figures.get(width, []), *page.evaluate(PANELS)]
        browser.close()
    counts = [len(panels) for _, *panels in figures[390]]
    assert counts == [2, 2, 2, 4]  # adam_and_sgd, bad_batch, what_to_expect, history
    for figure, *panels in figures[390]:
        for left, right, top, bottom in panels:
            assert figure[0] - 1 <= left < right <= figure[1] + 1
            assert figure[2] - 1 <= top < bottom <= figure[3] + 1
        for above, below in zip(panels, panels[1:]):
            assert above[3] <= below[2] + 1
    for _, first, second, *_ in figures[1280]:
        assert first[1] <= second[0] and first[2] < second[3] and second[2] < first[3]
