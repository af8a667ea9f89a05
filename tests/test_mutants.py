"""The bugs of mutants.py: are they still where they say, and noticed?"""

import pytest

import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda m: f"{m.lesson}: {m.bug}")
def test_the_place_of_each_bug_is_there_once(mutant):
    text = (mutants.ROOT / mutant.path).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1 and mutant.new != mutant.old


@pytest.mark.soak
def test_every_bug_is_noticed():
    assert mutants.main([]) == 0


def test_a_bug_that_no_test_notices_is_told(monkeypatch, tmp_path, capsys):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "test_a.py").write_text("import a\n\n\ndef test_x():\n    assert a.x > 0\n")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    place = dict(path="a.py", old="x = 1", tests="test_a.py")
    bugs = [
        mutants.Mutant(1, "too large", new="x = 2", **place),
        mutants.Mutant(2, "nothing", new="x = 0", **place),
    ]
    monkeypatch.setattr(mutants, "MUTANTS", bugs)
    assert mutants.main(["2"]) == 0 and mutants.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "lesson 01  NOT NOTICED: too large",
        "lesson 02  noticed: nothing",
        "1 of 2 bugs noticed",
    ]
