import sys

import pytest

from bayes_influence.data.imported import imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_code_of_a_test.py").write_text("def make():\n    return 3\n")
    (tmp_path / "broken_code_of_a_test.py").write_text("import nowhere_at_all\n")
    yield "own_code_of_a_test"
    sys.modules.pop("own_code_of_a_test", None)


def test_a_module_of_the_working_directory_is_found(module):
    before = list(sys.path)
    assert imported(f"{module}:make")() == 3
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_code_of_a_test", "names nothing; write module:function"),
        ("own_code_of_a_test:", "names nothing"),
        ("no_such_code:make", "the module no_such_code does not import: ModuleNotFoundError: No module named 'no_such"),
        ("broken_code_of_a_test:make", "does not import: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("own_code_of_a_test:mend", "the module own_code_of_a_test has no mend; it has make"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_is_not_there_is_said(name, message):
    with pytest.raises(ValueError, match=message):
        imported(name)
