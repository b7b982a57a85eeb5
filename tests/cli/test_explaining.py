import pandas as pd
from typer.testing import CliRunner

from bayes_influence.cli.commands import app
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun


def run(*arguments):
    return CliRunner().invoke(app, ["why", *map(str, arguments)])


def test_a_prediction_is_explained_and_what_is_wrong_is_said(tmp_path, monkeypatch):
    train_and_report(TrainRun("iris", "mlp", "weight-decay", epochs=5, width=3), tmp_path / "iris", progress=False)
    monkeypatch.chdir(tmp_path / "iris")
    done = run(".", "--test", 3, "--top", 2, "--removals", 3)
    assert done.exit_code == 0, done.output
    assert "for the prediction" in done.output
    assert "test 3 without " in done.output
    assert (tmp_path / "iris-why-3" / "removed.csv").is_file()
    refused = run(tmp_path / "iris")
    assert refused.exit_code == 2
    assert "needs at least one test example: by position (tests, --test), by id (test_ids, --test-id)" in refused.output
    unknown = run(tmp_path / "iris", "--test", 999)
    assert "no test example 999" in unknown.output
    assert "are given by test_ids (--test-id)" in unknown.output


def test_a_folder_that_is_no_run_is_refused_before_a_test_example_is_asked_for(tmp_path):
    refused = run(tmp_path)
    assert refused.exit_code == 2
    assert f"{tmp_path} holds no study: there is no config.json in it" in refused.output


def test_new_rows_are_predicted_into_a_file(tmp_path):
    frame = pd.DataFrame({"x": range(40), "y": ["=n", "@p"] * 20})
    frame.to_csv(tmp_path / "towns.csv", index=False)
    told = TrainRun(str(tmp_path / "towns.csv"), "mlp", "weight-decay", target=("y",), epochs=2, width=3)
    train_and_report(told, tmp_path / "run", progress=False)
    frame[["x"]].to_csv(tmp_path / "new.csv", index=False)
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")])
    assert done.exit_code == 0, done.output
    found = pd.read_csv(tmp_path / "new-predicted.csv")
    assert found.columns.tolist() == ["row", "predicted", "p(=n)", "p(@p)"]
    assert set(found["predicted"]) <= {"'=n", "'@p"}
    assert "40 predictions: " in done.output
    assert len(done.output.splitlines()) == 22  # a header, 20 of the rows, and where all of them are
    refused = CliRunner().invoke(app, ["predict", str(tmp_path / "run"), str(tmp_path / "none.csv")])
    assert refused.exit_code == 2
    assert "none.csv" in refused.output


def test_predictions_are_not_written_over_what_they_are_made_of(tmp_path):
    pd.DataFrame({"x": range(40), "y": ["n", "p"] * 20}).to_csv(tmp_path / "towns.csv", index=False)
    told = TrainRun(str(tmp_path / "towns.csv"), "mlp", "weight-decay", target=("y",), epochs=1, width=3)
    train_and_report(told, tmp_path / "run", progress=False)
    pd.DataFrame({"x": [1.5, 2.5], "y": ["n", "p"]}).to_csv(tmp_path / "new.csv", index=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out, said in (
        ("new.csv", "new.csv is the table that is predicted"),
        ("towns.csv", "towns.csv is the table that the run was trained on"),
        ("run/config.json", "config.json is in the folder of the run"),
    ):
        command = ["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--out", str(tmp_path / out)]
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code == 2
        assert said in " ".join(refused.output.split()).replace("- ", "-")
        assert "--out" in refused.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
