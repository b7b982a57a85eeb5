"""What MkDocs is told beside mkdocs.yml: pages from the repository's root, and one page of the API per room.

mkdocs build --strict
"""

from __future__ import annotations

import ast
import re
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = "bayes_influence"
FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
"""Files of the repository's root, and where the site has them."""

SINGLE = ("errors", "arguments")
"""Files beside the rooms that users meet."""


def rooms() -> list[str]:
    """The package's rooms in the order of the architecture's picture, and the files beside them."""
    drawn = ast.parse((ROOT / "docs" / "architecture_figure.py").read_text())
    calls = [node for node in ast.walk(drawn) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Room"]
    return [*(ast.literal_eval(call.args[0]) for call in calls), *SINGLE]


SOURCES = tempfile.TemporaryDirectory(prefix="sources-")
"""Holds the package as it is installed, `models` within, as long as the site is built."""


def sources() -> str:
    """The folder that the API is read from, of links to the rooms."""
    package = Path(SOURCES.name) / PACKAGE
    if not package.exists():
        package.mkdir()
        for path in [ROOT / "models", *(ROOT / PACKAGE).iterdir()]:
            (package / path.name).symlink_to(path)
    return SOURCES.name


@event_priority(100)  # before mkdocstrings reads its own
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Says where the sources are, and lists the pages of the API."""
    handler = config.plugins["mkdocstrings"].config.handlers.setdefault("python", {})
    handler["paths"] = [sources()]
    pages: list[dict[str, str]] = [{room: f"api/{room}.md"} for room in rooms()]
    config.nav = [{"API": pages} if entry == {"API": "API"} else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are in no file of docs/."""
    for name, place in FROM_ROOT.items():
        files.append(File.generated(config, place, content=for_site((ROOT / name).read_text())))
    for room in rooms():
        files.append(File.generated(config, f"api/{room}.md", content=f"# {room}\n\n::: {PACKAGE}.{room}\n"))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links out of docs/, made to links within the site."""
    return re.sub(r"\]\(\.\./([A-Z]+\.md)", lambda found: f"]({FROM_ROOT[found[1]]}", markdown)


def for_site(page: str) -> str:
    """A page of the root as the site has it: links into docs/ are within, other files are only named."""
    page = re.sub(r"\[([^\]]*)\]\((?!https?:|docs/|[A-Z]+\.md|#)([^)]*)\)", r"`\1`", page)
    return page.replace("](docs/", "](")
