"""The benchmarks say which peer library is missing and go on without it, and add up what they find as they say."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.label_errors import over_seeds

ROOT = Path(__file__).parents[1]
BESIDE = """
from importlib import util
import benchmarks.peers.installed as installed
from benchmarks.peers.conventions import tiny_problem
from benchmarks.peers.measure import side_by_side

installed.find_spec = lambda name: None if name == "captum" else util.find_spec("json")
entries = {"one": "ours:automatic", "two": "with_captum:full_rank", "three": "nowhere:nothing"}
entries = installed.present(entries)
for found in side_by_side(entries, dict.fromkeys(entries, tiny_problem()), repeats=2, threads=1):
    print(found.name, len(found.runs), found.error or tuple(found.outcome.raw.shape))
installed.present({"two": "with_captum:full_rank"})
"""


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_missing_library_and_a_process_that_dies_are_said_and_the_others_measured():
    done = run("-c", BESIDE)
    left_out, one, three, again = done.stdout.splitlines()
    assert left_out == again == "two: left out, captum is not installed (benchmarks/requirements.txt says how)"
    assert one == "one 2 (5, 60)"
    assert three == "three 1 its process ended without an answer; what it printed stands above"
    assert "No module named 'benchmarks.peers.nowhere'" in done.stderr
    assert "nothing to run: of two none is installed" in done.stderr
    assert done.returncode == 1


def test_every_benchmark_is_imported_without_any_peer():
    files = sorted((ROOT / "benchmarks").glob("**/*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if "with_" not in path.name]
    done = run("-c", f"from importlib import import_module\nfor name in {names}: import_module(name)")
    assert done.returncode == 0, done.stderr


def test_a_proportion_over_seeds_is_the_mean_of_those_of_their_searches_together():
    cells = pd.DataFrame(
        [("a", 1, 10, 4, 1), ("a", 1, 10, 6, 1), ("a", 2, 20, 10, 3), ("a", 3, 20, 10, 4), ("b", 1, 5, 0, 0)],
        columns=["set", "seed", "wrong", "flagged", "false"],
    )
    found = over_seeds(cells, ["set"])
    assert found["flagged"].tolist() == [30, 0]
    assert found["fdp"].tolist() == pytest.approx([(0.2 + 0.3 + 0.4) / 3, 0])
    assert found["recall"].tolist() == pytest.approx([(8 + 7 + 6) / 60, 0])
    half_width = 4.302653 * 0.1 / 3**0.5
    assert [found["fdp from"].iloc[0], found["fdp to"].iloc[0]] == pytest.approx([0.3 - half_width, 0.3 + half_width])
