"""The wheel: what is in it, and that it works where there is no checkout."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the sources, so that no build folder is left in the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("bayes_influence", "models"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    run = subprocess.run(build, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_every_module_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {f"bayes_influence/{path.relative_to(ROOT)}" for path in ROOT.glob("models/**/*.py")}
    expected |= {str(path.relative_to(ROOT)) for path in ROOT.glob("bayes_influence/**/*.py")}
    assert names == expected | {"bayes_influence/py.typed"}


def test_wheel_has_the_command_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    texts = {name.partition(".dist-info/")[2]: archive.read(name).decode() for name in archive.namelist()}
    assert "bayes-influence = bayes_influence.cli:app" in texts["entry_points.txt"]
    assert texts["licenses/LICENSE"].startswith("MIT License")
    assert texts["top_level.txt"].split() == ["bayes_influence"]


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
