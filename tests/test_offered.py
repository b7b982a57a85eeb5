"""What the package offers: every name of its stub, and only when it is asked for."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import bayes_influence as bi
from bayes_influence.cli import said
from bayes_influence.curvature import cost

STUB = ast.parse((Path(bi.__file__).parent / "__init__.pyi").read_text())
IMPORTED = {alias.name: line.module for line in STUB.body if isinstance(line, ast.ImportFrom) for alias in line.names}


def test_what_type_checkers_see_is_what_there_is():
    (listed,) = [line.value for line in STUB.body if isinstance(line, ast.Assign)]
    assert sorted(ast.literal_eval(listed)) == bi.__all__ == sorted([*IMPORTED, "__version__"])
    assert set(bi.__all__) <= set(dir(bi))


@pytest.mark.parametrize("name", sorted(IMPORTED))
def test_a_name_is_that_of_its_module(name):
    assert getattr(bi, name) is getattr(import_module(IMPORTED[name]), name)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="module 'bayes_influence' has no attribute 'Inflated'"):
        _ = bi.Inflated


def test_the_command_line_starts_without_torch():
    heavy = ("torch", "numpy", "pandas", "scipy", "matplotlib", "sklearn")
    code = f"""
import sys
from bayes_influence.cli import app
for arguments in (["--version"], ["--help"]):
    app(arguments, standalone_mode=False)
print([name for name in {heavy} if name in sys.modules])
import bayes_influence as bi
print(bi.Dataset.__name__)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[0] == f"bayes-influence {bi.__version__}"
    assert run.stdout.splitlines()[-2:] == ["[]", "Dataset"]


def test_long_work_is_announced_by_the_commands():
    assert cost.logger.name == said.COSTS
