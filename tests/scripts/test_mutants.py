import shutil

import pytest

from scripts.mutants import ROOT, Mutant, read_tables, survivors

MUTANTS = read_tables()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: f"{each.area}: {each.name}")
def test_mutant_changes_the_code_as_it_is(mutant, tmp_path):
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / mutant.file, copy)

    mutant.apply(tmp_path)

    compile(copy.read_text(), mutant.file, "exec")
    assert mutant.tests
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).is_file()


def test_names_of_mutants_are_unique():
    names = [(mutant.area, mutant.name) for mutant in MUTANTS]

    assert len(set(names)) == len(names)


def test_only_a_mutant_that_a_test_finds_is_found(tmp_path, capsys):
    (tmp_path / "code_of_a.py").write_text("A = 1\nB = 2\n")
    (tmp_path / "test_a.py").write_text(
        "import code_of_a\n\n\ndef test_a():\n    assert code_of_a.A == 1\n"
    )
    about = {"area": "x", "file": "code_of_a.py", "tests": ["test_a.py"]}
    tried = [
        Mutant(name="found", old="A = 1", new="A = 2", **about),
        Mutant(name="equal", old="B = 2", new="B = 3", **about),
        Mutant(name="broken", old="A = 1", new="A = ", **about),
    ]

    remaining = [each.name for each in survivors(tried, tmp_path)]

    assert remaining == ["equal", "broken"]
    assert capsys.readouterr().out.split()[0] == "found"
