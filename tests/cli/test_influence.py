"""`bayes-influence influence RUN` on a finished run."""

import pandas as pd
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


def test_the_ranking_is_printed_and_stored_beside_the_run(run, monkeypatch):
    """Also of a run that is named as the folder one is in."""
    monkeypatch.chdir(run)
    result = CliRunner().invoke(app, ["influence", ".", "--test", "12", "--test-id", "0", "--top", "3"])
    assert result.exit_code == 0, result.output
    for expected in ("test 12 (id ", "(id 0): setosa", "most helpful", "most harmful", "iris-influence-12-id0"):
        assert expected in result.output
    stored = run.with_name("iris-influence-12-id0")
    assert (stored / "scores.safetensors").exists()
    assert len((stored / "influence.csv").read_text().splitlines()) == 1 + 2 * 2 * 3


def test_another_answer_goes_to_another_folder_and_a_polish_is_said(run):
    command = ["influence", str(run), "--test", "7", "--top", "2"]
    for options, name in (
        ([], "iris-influence-7"),
        (["--parameters", "last-layer"], "iris-influence-7-last-layer"),
        (["--curvature", "ggn", "--damping", "0.5", "--polish"], "iris-influence-7-ggn-0.5-polished"),
        (["--measurement", "entropy", "--index", "0"], "iris-influence-7-entropy-0"),
    ):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.output
        assert (run.with_name(name) / "influence.csv").exists()
        assert ("Note: polished network 0: J, " in result.output) == ("--polish" in options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs at least one test example: by position (tests, --test), by id (test_ids, --test-id), or"),
        (["--test", "99"], "iris: no test example 99; the 30 test examples are numbered from 0 to 29; ids, from "),
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


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    frame = pd.DataFrame({"a": range(30), "c": ["n", "s", "e"] * 10, "kind": ["town", "village"] * 15})
    frame.to_csv(folder / "towns.csv", index=False)
    run = TrainRun(str(folder / "towns.csv"), "mlp", "none", target=("kind",), epochs=1, width=2)
    train_and_report(run, folder / "run", progress=False)
    frame.drop(columns="kind").head(2).to_csv(folder / "new.csv", index=False)
    return folder


def test_new_rows_are_explained_and_it_is_said_on_what(towns):
    result = CliRunner().invoke(app, ["influence", str(towns / "run"), "--on", str(towns / "new.csv"), "--top", "2"])
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    for expected in ("row 0: not given", "row 1: ", "has no targets: influence is on the loss of the"):
        assert expected in shown
    assert "Scores and table:" in shown
    assert "pictures" not in shown
    assert (towns / "run-influence-new" / "influence.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test", "0", "--data-folder", "x"], "--data-folder does not apply here:"),
        (["--on", "absent.csv"], "absent.csv: there is no such file"),
        (["--test", "0", "--device", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_apply_to_a_table_is_refused(towns, arguments, message, tmp_path):
    result = CliRunner().invoke(app, ["influence", str(towns / "run"), *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_info_says_what_a_folder_holds(towns):
    result = CliRunner().invoke(app, ["info", str(towns / "run")])
    assert result.exit_code == 0, result.output
    for expected in ("training run", "finished: yes, 1 epochs", "target: kind", "bayes-influence", "scheme: none"):
        assert expected in result.output
    refused = CliRunner().invoke(app, ["info", str(towns / "nothing")])
    assert (refused.exit_code, "there is no such file or folder" in refused.output) == (2, True)
