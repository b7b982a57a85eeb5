import pandas as pd
import pytest
from typer.testing import CliRunner

from bayes_influence.cli.commands import app
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun


def run(*arguments):
    return CliRunner().invoke(app, ["figure", *map(str, arguments)])


def test_a_run_s_figures_are_drawn_again(tmp_path, monkeypatch):
    train_and_report(TrainRun("iris", "mlp", "weight-decay", epochs=2, width=3), tmp_path / "run", progress=False)
    done = run(tmp_path / "run", "--page", "paper", "--kinds", "svg,png", "--width", 3.3, "--dpi", 50)
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "run-figures").iterdir()) == ["reliability.png", "reliability.svg"]
    monkeypatch.chdir(tmp_path / "run")
    assert run(".", "--name", "reliability", "--kinds", "pdf").exit_code == 0
    assert (tmp_path / "run-figures" / "reliability.pdf").exists()
    monkeypatch.chdir(tmp_path)
    for wrong, message in (
        (("--page", "poster"), "unknown page 'poster'; known: paper, talk"),
        (("--name", "history"), "has no figure 'history'; it has reliability"),
        (("--font-size", 0), "font_size must be positive"),
    ):
        refused = run(tmp_path / "run", *wrong)
        assert refused.exit_code == 2
        assert message in " ".join(refused.output.split())
    assert "no figures that can be drawn again" in " ".join(run(tmp_path).output.split())


def test_a_merge_says_what_it_took_and_what_does_not_fit(tmp_path):
    for seed in (0, 1):
        folder = StudyFolder(tmp_path / f"part{seed}", {"study": "of-test"})
        for cell in range(seed + 1):
            folder.save_cell(f"seed={cell}", {"results": pd.DataFrame({"loss": [0.5 * cell]})})
    arguments = ["merge", *(str(tmp_path / name) for name in ("part0", "part1"))]
    merged = CliRunner().invoke(app, arguments)
    assert merged.exit_code == 0, merged.output
    text = " ".join(merged.output.split())
    assert f"1 cells taken into {tmp_path / 'part0'}, 1 were there; it has seed=0, seed=1. The study's command" in text
    refused = CliRunner().invoke(app, [*arguments, str(tmp_path / "nothing")])
    assert refused.exit_code == 2
    assert "holds no study" in " ".join(refused.output.split())


@pytest.mark.slow
def test_parts_of_a_study_from_two_machines_are_put_together_and_go_on(tmp_path):
    """What the whole study then computes and draws is what it does in one folder."""

    def reproduce(folder, seed, repeats):
        options = ["--train", "100", "--groups", "3", "--seed", seed, "--repeats", repeats, "--jobs", "1"]
        done = CliRunner().invoke(app, ["reproduce", "group-synthetic", *map(str, [*options, "--out", folder])])
        assert done.exit_code == 0, done.output
        return {path.name: path.read_bytes() for path in folder.glob("*.csv")}

    for seed in (0, 1):
        reproduce(tmp_path / f"part{seed}", seed, 1)
    parts = [tmp_path / "part0", tmp_path / "part1"]
    merged = CliRunner().invoke(app, ["merge", *map(str, [tmp_path / "all", *parts])])
    assert merged.exit_code == 0, merged.output
    cells = sorted((tmp_path / "all" / "cells").iterdir())
    assert f"{len(cells)} cells taken into {tmp_path / 'all'}, 0 were there" in " ".join(merged.output.split())
    stamps = [path.stat().st_mtime_ns for path in cells]
    assert reproduce(tmp_path / "all", 0, 2) == reproduce(tmp_path / "whole", 0, 2)
    assert [path.stat().st_mtime_ns for path in cells] == stamps
