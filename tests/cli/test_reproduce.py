import pandas as pd
import pytest
from typer.testing import CliRunner

from bayes_influence.cli import app
from bayes_influence.experiments.papers.fragility import settings


def _run(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)], terminal_width=200)


def test_the_studies_are_listed_with_what_they_show():
    shown = " ".join(_run("--help").output.split())
    assert "fig1" in shown
    assert "Spearman correlation (signed)" in shown


def test_numbers_are_separated_by_commas(monkeypatch):
    asked = {}

    def refuse(name, options, *args, **kwargs):
        asked.update(options)
        raise ValueError("far enough")

    monkeypatch.setattr("bayes_influence.experiments.papers.registry.reproduce", refuse)
    assert "far enough" in _run("smooth-hinge", "--temperatures", "0, 0.5,1e-3").output
    assert asked["temperatures"] == (0.0, 0.5, 0.001)
    failed = _run("smooth-hinge", "--temperatures", "0,warm")
    assert failed.exit_code == 2
    assert "temperatures takes numbers separated by commas, got '0,warm'" in failed.output


def test_a_study_s_options_are_its_settings():
    shown = _run("fig3", "--help").output
    assert "--repeats" in shown
    assert "--depth" not in shown
    assert "none,weight-decay,swa" in shown


@pytest.mark.slow
def test_a_figure_is_reproduced_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setitem(settings.SCALES, "medium", settings.Scale(9, 9, 9, ((1, 5), (2, 5), (1, 8))))
    options = ["--repeats", 2, "--removals", 4, "--epochs", 40, "--schemes", "weight-decay, none", "--refit-epochs", 5]
    result = _run("fig1", *options, "--test-example", 83, "--out", tmp_path / "out", "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert "statistic" in result.output
    assert "weight-decay: mean signed Spearman from" in result.output
    assert f"Figure: {tmp_path / 'out' / 'fig1.png'}" in result.output
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["scheme"].unique().tolist() == ["weight-decay", "none"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing-like-it"], "No such command 'nothing-like-it'"),
        (["fig9"], "No such command 'fig9'. Did you mean 'fig"),
        (["group-syntetic"], "No such command 'group-syntetic'. Did you mean 'group-synthetic"),
        (["fig1", "--depth", 3], "No such option: --depth"),
        (["fig1", "--removals", 400], "removals must lie in 3..149"),
        (["fig1", "--mode", "published"], "unknown mode 'published'; known: corrected, as-published"),
        (["fig1", "--schemes", "nonne"], "unknown scheme nonne; known: none"),
    ],
)
def test_what_does_not_apply_is_refused(arguments, message, tmp_path):
    result = _run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
