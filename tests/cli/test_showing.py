from typer.testing import CliRunner

from bayes_influence.cli.commands import app
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun


def run(*arguments):
    return CliRunner().invoke(app, ["figure", *map(str, arguments)])


def test_a_run_s_figures_are_drawn_again(tmp_path):
    train_and_report(TrainRun("iris", "mlp", "weight-decay", epochs=2, width=3), tmp_path / "run", progress=False)
    done = run(tmp_path / "run", "--page", "paper", "--kinds", "svg,png", "--width", 3.3, "--dpi", 50)
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "run-figures").iterdir()) == ["reliability.png", "reliability.svg"]
    for wrong, message in (
        (("--page", "poster"), "unknown page 'poster'; known: paper, talk"),
        (("--name", "history"), "has no figure 'history'; it has reliability"),
        (("--font-size", 0), "font_size must be positive"),
    ):
        refused = run(tmp_path / "run", *wrong)
        assert refused.exit_code == 2
        assert message in " ".join(refused.output.split())
    assert "no figures that can be drawn again" in " ".join(run(tmp_path).output.split())
