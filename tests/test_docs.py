"""The Python of README and docs runs, in order, each page in one namespace, and every name in them exists."""

import ast
import builtins
import re
from pathlib import Path

import pytest
import torch

import bayes_influence as bi

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"[\w./*-]+\.(?:py|md|txt|toml)\b")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), namespace)
    assert len(namespace) > 1


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_nothing_of_an_unfinished_merge_is_left(page):
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", page.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.fixture(scope="module")
def known():
    """Every name of the sources: modules, definitions, arguments, attributes, short strings; of other packages."""
    names = {*dir(builtins), *dir(torch), *dir(torch.nn), *dir(torch.nn.functional)}
    names.update(re.findall(r'"([a-z-]+)>=', (ROOT / "pyproject.toml").read_text()))
    folders = ("bayes_influence", "models", "tests", "benchmarks", "scripts", "docs")
    for path in (path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py")):
        names.update(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())) if path.name != Path(__file__).name else ():
            for field in ("name", "id", "attr", "arg", "value"):
                value = getattr(node, field, None)
                if isinstance(value, str) and len(value) < 40:
                    names.update(re.findall(r"\w+", value))
    return names


def spans(page):
    return SPAN.findall(FENCE.sub("", page.read_text()))


def unknown_names(spans, known):
    """Words of code spans that nothing is called by; short words, capitals and what ends in _ are no names."""
    spans = [FILE.sub("", span) for span in spans]
    words = {word for span in spans for word in re.findall(r"(?<![\w/-])[A-Za-z_]\w{3,}(?![\w/*-])", span)}
    options = {option.replace("-", "_") for span in spans for option in re.findall(r"(?<!\w)--([a-z][a-z-]*)", span)}
    options -= {option for option in options if option.removeprefix("no_") in known}
    return sorted({word for word in words | options if not word.isupper()} - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_in_code_exist(page, known):
    assert unknown_names(spans(page), known) == []


def test_an_unknown_name_is_found(known):
    found = unknown_names(["bi.Influenze(objective)", "train --warm-strat FOLDER", "known_nowhere/x.py"], known)
    assert found == ["Influenze", "warm_strat"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_docs_take_from_the_package_is_offered(page):
    taken = set(re.findall(r"\bbi\.(\w+)", page.read_text()))
    assert not taken - set(bi.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_code_lead_somewhere(page):
    paths = {path for span in spans(page) for path in FILE.findall(span) if "/" in path and "*" not in path}
    roots = (ROOT, ROOT / "bayes_influence")
    assert not {path for path in paths if not any((root / path).exists() for root in roots)}
