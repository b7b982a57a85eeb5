"""The wheel and the source distribution: what is in them, and that they work where there is no checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


FOLDERS = ("bayes_influence", "models", "tests", "docs", "scripts", "benchmarks")
FILES = (
    "mkdocs.yml",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "constraints.txt",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist, built from a copy of the sources, so that no build folder is left in the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(ROOT / file, copy)
    out = tmp_path_factory.mktemp("built")
    # The wheel comes from the sdist, as it does for who installs from one.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    run = subprocess.run(build, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built):
    (path,) = built.glob("*.tar.gz")
    return path


def test_wheel_holds_every_module_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"bayes_influence/{path.relative_to(ROOT)}" for path in ROOT.glob("models/**/*.py")}
    expected |= {str(path.relative_to(ROOT)) for path in ROOT.glob("bayes_influence/**/*.py")}
    expected |= {str(path.relative_to(ROOT)) for path in ROOT.glob("bayes_influence/**/*.csv")}
    expected |= {str(path.relative_to(ROOT)) for path in ROOT.glob("bayes_influence/**/templates/*")}
    assert names == expected | {"bayes_influence/py.typed", "bayes_influence/__init__.pyi"}


def test_wheel_has_the_command_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    texts = {name.partition(".dist-info/")[2]: archive.read(name).decode() for name in archive.namelist()}
    assert "bayes-influence = bayes_influence.cli:run_program" in texts["entry_points.txt"]
    assert texts["licenses/LICENSE"].startswith("MIT License")
    assert texts["top_level.txt"].split() == ["bayes_influence"]


def test_sdist_holds_what_its_tests_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    wanted = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert wanted | set(FILES) <= names
    assert not [name for name in names if "__pycache__" in name]


def test_every_dependency_is_pinned():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in pins if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line) for line in pins), "a pin is not portable"
    pinned = {normalised(line.partition("==")[0]) for line in pins}
    project = (ROOT / "pyproject.toml").read_text()
    wanted = {normalised(name) for name in re.findall(r'"([A-Za-z0-9_-]+)>=', project)}
    assert wanted <= pinned, f"constraints.txt does not pin {sorted(wanted - pinned)}"


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
def test_tests_run_from_the_unpacked_sdist(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    # -P: what is imported is what the wheel holds, not the folder that the tests lie in.
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += ["tests/test_layout.py", "tests/test_annotations.py", "tests/models", "tests/data"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    run = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    where = "import bayes_influence.models as m; print(m.__file__)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", where], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(installed)


@pytest.mark.slow
def test_wheel_runs_the_main_job_outside_the_checkout(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(scripts / "python", "-m", "pip", "install", "-c", ROOT / "constraints.txt", wheel)
    folders = run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    assert not (Path(folders) / "models").exists()
    location = run(scripts / "python", "-c", "import bayes_influence.models.mlp as m; print(m.__file__)").strip()
    assert Path(location).is_relative_to(folders)
    run(scripts / "bayes-influence", "compare", "iris", "--repeats", "1", "--out", tmp_path / "results")
    assert (tmp_path / "results" / "results.csv").exists()
