"""Every figure of the fragility study at its quick scale, which each mode runs in a file of its own, side by side."""

from dataclasses import replace
from pathlib import Path

import pytest

from bayes_influence.experiments.papers.fragility import everything
from bayes_influence.experiments.papers.fragility.everything import WholeStudy, reproduce_everything


def check_all_figures(mode: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs them, the length of refits under one scheme, and looks at tables, figures and sentences."""
    (length,) = everything.PARTS["refit-length"]
    one = replace(length, settings=replace(length.settings, schemes=("weight-decay",)))
    monkeypatch.setitem(everything.PARTS, "refit-length", (one,))
    found = reproduce_everything(WholeStudy(mode=mode, scale="quick", test_example=83), folder, 1, progress=False)
    assert found.table["study"].tolist() == [
        "fig1",
        "fig3",
        "fig2",
        "fig4",
        "fig5",
        "ablation",
        "ablation-images",
        "refit-length",
        "all-layers",
        "training-recipe",
    ]
    assert all(figure.stat().st_size > 10_000 for figure in found.figures)
    assert "failed" not in (folder / "summary.txt").read_text()
