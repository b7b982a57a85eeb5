"""The architecture: which room may import which, what is packaged, and that everything public is documented."""

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    "torch_internals",
    "errors",
    "arguments",
    "forward_mode",
    "models",
    "data",
    "moments",
    "objectives",
    "curvature",
    "training",
    "influence",
    "estimators",
    "retraining",
    "evaluation",
    "experiments",
    "cli",
)
SOURCES = sorted([*ROOT.glob("models/**/*.py"), *ROOT.glob("bayes_influence/**/*.py")])


def room_of(path):
    """The room that a source file stands in, None for the package's own `__init__` and `__main__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    room = parts[0] if parts[0] == "models" else parts[1]
    return None if room in ("__init__", "__main__") else room


def imported_modules(tree):
    """Every (line, dotted name) that a module imports, wherever in the file; `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: use an absolute import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def upward_imports(source, room):
    """Lines of `source`, a module of `room`, that import from a room that comes later, or from no room at all."""
    wrong = []
    for line, name in imported_modules(ast.parse(source)):
        parts = name.split(".")
        if parts[0] == "models" or (parts[0] == "bayes_influence" and len(parts) == 1):
            wrong.append(f"line {line}: import the module that is meant, not {name}")
        elif parts[0] == "bayes_influence" and parts[1] not in ROOMS:
            wrong.append(f"line {line}: {name} is in no room")
        elif parts[0] == "bayes_influence" and ROOMS.index(parts[1]) > ROOMS.index(room):
            wrong.append(f"line {line}: {room} imports {parts[1]}, which comes after it")
    return wrong


def private_names(source, package="torch"):
    """Lines of `source` that reach for a private name of `package`: `from torch._x import y`, `torch.x._y`."""
    tree = ast.parse(source)
    names = [(line, name) for line, name in imported_modules(tree) if name.split(".")[0] == package]
    local = {name.split(".")[-1] for _, name in names} | {package}
    chains = [(node.lineno, ast.unparse(node)) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names += [(line, chain) for line, chain in chains if chain.split(".")[0] in local]
    return [
        f"line {line}: take {name} from bayes_influence.torch_internals"
        for line, name in names
        if any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    ]


def undocumented(tree):
    """Names of the public functions, classes and methods of a module that have no docstring."""
    scopes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))]
    return [
        node.name
        for scope in scopes
        for node in scope.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_and_everything_public_is_documented(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    assert undocumented(tree) == []
    if (room := room_of(path)) is not None:
        assert upward_imports(path.read_text(), room) == []


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("from bayes_influence.influence.scores import x", "data imports influence, which comes after it"),
        ("import bayes_influence.cli", "data imports cli, which comes after it"),
        ("def f():\n    from bayes_influence import training", "line 2: data imports training"),
        ("from bayes_influence.utils import x", "is in no room"),
        ("import bayes_influence", "import the module that is meant"),
        ("import models.mlp", "import the module that is meant"),
    ],
)
def test_an_arrow_that_goes_up_is_found(source, complaint):
    (found,) = upward_imports(source, "data")
    assert complaint in found


def test_an_arrow_that_goes_down_is_allowed():
    assert upward_imports("from bayes_influence.models.mlp import MLP\nimport torch", "data") == []


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("bayes_influence", "models", "tests", "benchmarks", "docs", "scripts")
        for path in sorted(ROOT.glob(f"{folder}/**/*.py"))
        if path.name != "torch_internals.py"
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_private_names_of_torch_live_in_one_file(path):
    assert private_names(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from torch.utils._pytree import tree_map",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch\nx = torch._C.TensorBase",
        "from torch import nn\nx = nn.modules.dropout._DropoutNd",
    ],
)
def test_a_private_name_of_torch_is_found(source):
    assert "from bayes_influence.torch_internals" in private_names(source)[0]


def test_public_names_of_torch_and_private_ones_of_ours_are_allowed():
    assert private_names("import torch\nx = torch.Tensor.__base__\ny = ours._flatten") == []


EXPERIMENT_ROOMS = ("store", "training", "comparison", "audit", "attribution", "papers")
MOST_ARROWS = 12


def experiment_arrows(sources):
    """The (importing, imported) pairs of different rooms of experiments/; `sources` are (room, text) pairs."""
    arrows = set()
    for room, source in sources:
        for _, name in imported_modules(ast.parse(source)):
            parts = name.split(".")
            if parts[:2] == ["bayes_influence", "experiments"] and len(parts) > 2 and parts[2] != room:
                arrows.add((room, parts[2]))
    return arrows


def wrong_arrows(arrows):
    """Those that lead to a room that comes later, or to no room."""
    order = EXPERIMENT_ROOMS.index
    return sorted(
        (room, other) for room, other in arrows if other not in EXPERIMENT_ROOMS or order(other) > order(room)
    )


def test_the_rooms_of_experiments_build_on_those_before_them():
    folder = ROOT / "bayes_influence" / "experiments"
    files = [path for path in folder.rglob("*.py") if path.parent != folder]
    sources = [(path.relative_to(folder).parts[0], path.read_text()) for path in files]
    assert {room for room, _ in sources} == set(EXPERIMENT_ROOMS)
    arrows = experiment_arrows(sources)
    assert wrong_arrows(arrows) == []
    assert len(arrows) <= MOST_ARROWS, sorted(arrows)


def test_an_arrow_between_experiments_that_goes_up_is_found():
    up = "def f():\n    from bayes_influence.experiments.audit.result import Audit"
    down = "from bayes_influence.experiments.store.folder import StudyFolder"
    arrows = experiment_arrows([("training", up), ("training", down), ("store", down)])
    assert arrows == {("training", "audit"), ("training", "store")}
    assert wrong_arrows(arrows) == [("training", "audit")]


def test_a_room_of_experiments_says_what_it_offers():
    for room in EXPERIMENT_ROOMS:
        folder = ROOT / "bayes_influence" / "experiments" / room
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        named = set(re.findall(r"`([a-z_]+)`", said))
        assert len(named & {path.stem for path in folder.glob("*.py")}) >= 2, (
            f"{room} says too little of what it offers"
        )


def test_the_picture_of_the_architecture_shows_the_rooms_and_what_they_define():
    drawn = runpy.run_path(str(ROOT / "docs" / "architecture_figure.py"))["ROOMS"]
    assert tuple(room.name for room in drawn) == ROOMS[4:]  # without the four files that stand above all rooms
    for room in drawn:
        trees = [ast.parse(path.read_text()) for path in SOURCES if room_of(path) == room.name]
        defined = {node.name for tree in trees for node in tree.body if hasattr(node, "name")}
        assert not set(room.offers) - defined, f"{room.name} does not define them"


def test_missing_documentation_is_found():
    source = "def f(): pass\nclass A:\n    def g(self): pass\n    def _h(self): pass"
    assert undocumented(ast.parse(source)) == ["f", "A", "g"]


def test_networks_depend_on_torch_only():
    allowed = {*sys.stdlib_module_names, "torch", "bayes_influence"}
    for path in ROOT.glob("models/**/*.py"):
        outside = {name.split(".")[0] for _, name in imported_modules(ast.parse(path.read_text()))} - allowed
        assert not outside, f"{path.name} imports {outside}"


def test_packages_listed_are_those_on_disk():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in SOURCES}
    on_disk = {".".join(folder.parts).removeprefix("bayes_influence.") for folder in folders} - {"bayes_influence"}
    assert sorted(listed) == sorted(["bayes_influence", *(f"bayes_influence.{name}" for name in on_disk)])


def test_every_folder_of_modules_is_a_package():
    assert [path for path in SOURCES if not (path.parent / "__init__.py").exists()] == []


def test_the_bare_name_models_is_refused():
    run = subprocess.run([sys.executable, "-c", "import models"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ImportError: this folder is installed as bayes_influence.models" in run.stderr
