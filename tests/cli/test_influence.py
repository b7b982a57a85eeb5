"""`bayes-influence influence RUN` on a finished run."""

import pytest
from typer.testing import CliRunner

from bayes_influence.cli import app
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.influence.scores import InfluenceScores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "iris"
    train_and_report(TrainRun(dataset="iris", network="mlp", scheme="weight-decay", epochs=2, width=5), folder)
    return folder


def test_the_ranking_is_printed_and_stored_beside_the_run(run):
    result = CliRunner().invoke(app, ["influence", str(run), "--test", "12", "--test-id", "0", "--top", "3"])
    assert result.exit_code == 0, result.output
    for expected in ("test 12 (id ", "(id 0): setosa", "most helpful", "most harmful", "iris-influence-12-id0"):
        assert expected in result.output
    stored = run.with_name("iris-influence-12-id0")
    assert (stored / "scores.safetensors").exists()
    assert len((stored / "influence.csv").read_text().splitlines()) == 1 + 2 * 2 * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs at least one test example"),
        (["--test", "99"], "iris: no test example 99; the 30 test examples are numbered from 0 to 29"),
        (["--test-id", "999"], "iris: no example has id [999]"),
    ],
)
def test_what_is_missing_is_said(run, tmp_path, arguments, message):
    result = CliRunner().invoke(app, ["influence", str(run), *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.output


def test_a_command_that_failed_is_not_in_the_way_of_the_corrected_one(run, tmp_path):
    command = ["influence", str(run), "--test", "3", "--out", str(tmp_path / "out")]
    failed = CliRunner().invoke(app, [*command, "--damping", "-1"])
    assert (failed.exit_code, (tmp_path / "out" / "scores.safetensors").exists()) == (2, False)
    corrected = CliRunner().invoke(app, [*command, "--damping", "10"])
    assert corrected.exit_code == 0, corrected.output
    assert "10.0" in InfluenceScores.load(tmp_path / "out" / "scores.safetensors").damping
