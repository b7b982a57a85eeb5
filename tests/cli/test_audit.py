import pandas as pd
import pytest
from typer.testing import CliRunner

from bayes_influence.cli import app

SMALL = ["--repeats", 1, "--removals", 4, "--epochs", 60, "--refit-epochs", 5, "--test-example", 83, "--jobs", 1]


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_audit_prints_every_part_and_a_verdict(tmp_path):
    result = _run("audit", "iris", *SMALL, "--parameters", "last-layer", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    for part in ("retraining from the fit *", "non-convergence", "eff. dim.", "outlying", "Tables, figure"):
        assert part in shown
    verdict = (tmp_path / "out" / "verdict.txt").read_text().splitlines()[0]
    assert " ".join(verdict.split()) in shown
    assert len(pd.read_csv(tmp_path / "out" / "gaps.csv")) == 4 * 5
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"figure.png", "figure.pdf", "agreement.csv", "waterfall.csv", "config.json"} <= files


@pytest.mark.slow
def test_a_finished_run_is_audited_on_its_worst_test_examples(tmp_path):
    run = tmp_path / "run"
    trained = _run(
        "train", "iris", "--scheme", "weight-decay", "--seeds", "3,5", "--epochs", 3, "--width", 4, "--out", run
    )
    assert trained.exit_code == 0, trained.output
    arguments = ["--parameters", "last-layer", "--removals", 4, "--tests", 2, "--damping", 0.01, "--jobs", 1]
    result = _run("audit", run, *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    effects = pd.read_csv(tmp_path / "out" / "effects.csv")
    assert effects["seed"].unique().tolist() == [3, 5]
    assert effects["test"].nunique() == 2
    assert "cold" not in effects
    assert pd.read_csv(tmp_path / "out" / "stages.csv").query("stage == 'warm'")["gradient_norm"].max() <= 1e-10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["irsi"], "unknown dataset 'irsi'"),
        (["iris", "--removals", "2"], "an audit needs at least 3 removed examples for its correlations, got 2"),
        (["iris", "--removals", "149"], "of which at most 148 can be removed; got removals=149"),
        (["iris", "--damping", "0"], "the damping must be positive, got 0.0; leave it out for the automatic one"),
        (["iris", "--solver", "gauss"], "unknown solver 'gauss'"),
        (["iris", "--scheme", "none,swa"], "unknown scheme none,swa"),
        (
            ["iris", "--tests", "9"],
            "--tests does not apply here: of iris one example is left out",
        ),
        (["iris", "--refits", "newton", "--refit-epochs", "9"], "--refit-epochs does not apply here"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, message, tmp_path):
    result = _run("audit", *arguments, "--test-example", "83", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
