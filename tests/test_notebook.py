"""play.ipynb: runs from top to bottom on what the repository ships, offline."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def the_cell(notebook: nbformat.NotebookNode, text: str) -> nbformat.NotebookNode:
    """The only code cell that has `text` in it."""
    [cell] = [cell for cell in code_cells(notebook) if text in cell.source]
    return cell


@pytest.fixture(scope="module")
def shipped() -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "play.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    """play.ipynb after a run in a folder that has what git has, and no log/; no network."""
    folder = tmp_path_factory.mktemp("notebook")
    for path in (*ROOT.glob("*.py"), ROOT / "input.txt", ROOT / "play.ipynb"):
        shutil.copy(path, folder)
    for name in ("assets", "support"):
        shutil.copytree(ROOT / name, folder / name)
    notebook = nbformat.read(folder / "play.ipynb", as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(folder / "huggingface"))  # OpenAI's weights are not in it
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        client = NotebookClient(notebook, timeout=180, resources={"metadata": {"path": folder}})
        client.execute()  # raises CellExecutionError where a cell fails
    return notebook


def test_runs_from_top_to_bottom(executed):
    cells = code_cells(executed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {"stream", "display_data"}  # no error among them
    assert not any(o.get("name") == "stderr" for cell in cells for o in cell.outputs)


def test_ships_with_the_outputs_of_its_own_cells(shipped, executed):
    assert [c.source for c in shipped.cells] == [c.source for c in executed.cells]
    for text in ("streams = {}", "unigram = ", "get_lr(step, s) for step"):
        assert printed(the_cell(shipped, text)) == printed(the_cell(executed, text))
    shipped, executed = code_cells(shipped), code_cells(executed)
    assert [c.execution_count for c in shipped] == [c.execution_count for c in executed]
    assert [pictures(c) for c in shipped] == [pictures(c) for c in executed]
    assert sum(map(pictures, shipped)) >= 4
    assert (ROOT / "play.ipynb").stat().st_size < 1e6


def test_ships_no_path_of_a_machine(shipped):
    for cell in code_cells(shipped):
        assert not any(path in printed(cell) for path in ("/home/", "/Users/", "site-packages"))


def test_reads_the_log_that_ships(executed):
    assert "assets/log_small.txt: a run on input.txt" in printed(the_cell(executed, "streams = {}"))


def test_baselines(executed):
    text = printed(the_cell(executed, "unigram = "))
    assert "knowing nothing: 10.82" in text
    assert "counting tokens: 6.53" in text  # input.txt is fixed, so the counts are


def test_says_whose_weights_it_shows(executed):
    assert "a tiny model, trained in this notebook" in printed(the_cell(executed, "whose = find"))


def test_residual_stream_grows_unless_scaled(executed):
    as_it_comes, scaled = [
        float(line.split(": ")[1])
        for line in printed(the_cell(executed, "def stream_std")).splitlines()
    ]
    assert as_it_comes == pytest.approx(10, rel=0.1)
    assert scaled == pytest.approx(1, rel=0.1)


def test_forgotten_division_is_four_times_too_long(executed):
    lines = printed(the_cell(executed, "def gradient")).splitlines()
    assert "1.0000 times as long" in lines[1]
    assert "4.0000 times as long" in lines[2]
    assert float(lines[3].split(": ")[1]) < 1e-6


def test_plan_of_the_full_run(executed):
    text = printed(the_cell(executed, "get_lr(step, s) for step"))
    assert "19,073 steps, 715 upwards; 6e-04 to 6e-05" in text


def test_the_lectures_way_of_reading_a_log_reads_ours():
    streams = {}
    for line in (ROOT / "assets" / "log_small.txt").read_text().splitlines():
        step, stream, val = line.strip().split()
        if stream not in streams:
            streams[stream] = {}
        streams[stream][int(step)] = float(val)
    assert {"train", "val"} <= set(streams) <= {"train", "val", "hella"}
    assert streams["val"][0] == pytest.approx(10.82, abs=0.25)
    assert min(streams["val"].values()) < 6.53  # better than counting tokens


def test_a_log_whose_lines_a_crash_cut_short_is_read(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("log").mkdir()
    Path("log", "log.txt").write_bytes(
        b"0 train 10.5\n0 val 9.25\n1 tra\0\xff\n\n1 train 10.0\n2 tr"
    )
    names = {}
    for cell in (the_cell(shipped, "import json"), the_cell(shipped, "streams = {}")):
        exec(cell.source, names)
    assert names["streams"] == {"train": {0: 10.5, 1: 10.0}, "val": {0: 9.25}}
