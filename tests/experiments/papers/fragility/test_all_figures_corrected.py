"""All figures of the fragility study, quick, corrected; a file per mode, so that both run side by side."""

import pytest

from bayes_influence.experiments.papers.fragility.everything import WholeStudy, reproduce_everything


@pytest.mark.slow
def test_everything_runs_corrected(tmp_path):
    study = WholeStudy(mode="corrected", scale="quick", test_example=83)
    found = reproduce_everything(study, tmp_path / "all", 1, progress=False)
    assert found.table["study"].tolist() == [
        "fig1",
        "fig3",
        "fig2",
        "fig4",
        "fig5",
        "ablation",
        "ablation-images",
        "all-layers",
        "training-recipe",
    ]
    assert all(figure.stat().st_size > 10_000 for figure in found.figures)
    assert "failed" not in (tmp_path / "all" / "summary.txt").read_text()
