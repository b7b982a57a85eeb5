"""Notebooks run, their stored results are small and their own; the site builds without a broken link."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LARGEST = 100_000
"""Characters of a stored notebook."""


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_there_is_a_notebook_on_a_table_on_images_and_on_text():
    assert [path.stem for path in NOTEBOOKS] == ["images", "table", "text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_results_are_stored_small_and_in_order(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert len(path.read_text()) < LARGEST
    assert "site-packages" not in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for cell in code_cells(path):
        exec(compile("".join(cell["source"]), str(path), "exec"), namespace)
    said = capsys.readouterr().out
    for promised in re.findall(r"(?m)^\d of 5 exchanged labels", path.read_text()):
        assert promised in said


def test_every_page_is_in_the_navigation():
    entries = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs") for ending in ("md", "ipynb") for path in ROOT.glob(f"docs/**/*.{ending}")]
    assert [str(page) for page in pages if str(page) not in entries] == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the docs extra")
def test_the_site_builds_without_a_broken_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "BayesianClassifier" in (tmp_path / "api" / "estimators" / "index.html").read_text()
    assert "bayes_influence.models.mlp.MLP" in (tmp_path / "api" / "models" / "index.html").read_text()
    assert "5 of 5 exchanged labels" in (tmp_path / "notebooks" / "table" / "index.html").read_text()
