"""The example script of one prediction runs, and what it prints is what refits say."""

import re
import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_one_prediction_is_explained_and_every_statement_holds(capsys):
    runpy.run_path(str(SCRIPTS / "explain_prediction.py"), run_name="__main__")
    printed = capsys.readouterr().out
    said = re.search(r"its loss changes by (\S+) \(predicted (\S+)\)", printed)
    true, predicted = map(float, said.groups())
    assert predicted == pytest.approx(true, rel=0.05)
    assert true < 0
    strengths = [float(value) for value in re.findall(r"^  .*: (\S+) a row", printed, re.MULTILINE)]
    assert len(strengths) == 3
    assert strengths == sorted(strengths, reverse=True)
    assert re.search(r"test row \d+ turns once ten rows were moved by \d", printed)
