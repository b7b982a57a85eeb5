from typer.testing import CliRunner

from bayes_influence.cli.commands import app
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun


def run(*arguments):
    return CliRunner().invoke(app, ["why", *map(str, arguments)])


def test_a_prediction_is_explained_and_what_is_wrong_is_said(tmp_path):
    train_and_report(TrainRun("iris", "mlp", "weight-decay", epochs=5, width=3), tmp_path / "iris", progress=False)
    done = run(tmp_path / "iris", "--test", 3, "--top", 2, "--removals", 3)
    assert done.exit_code == 0, done.output
    assert "for the prediction" in done.output
    assert "test 3 without " in done.output
    assert (tmp_path / "iris-why-3" / "removed.csv").is_file()
    refused = run(tmp_path / "iris")
    assert refused.exit_code == 2
    assert "needs at least one test example" in " ".join(refused.output.split())
