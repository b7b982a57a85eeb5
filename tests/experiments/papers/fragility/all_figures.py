"""Every figure of the fragility study at its quick scale, which each mode runs in a file of its own, side by side."""

from pathlib import Path

from bayes_influence.experiments.papers.fragility.everything import WholeStudy, reproduce_everything


def check_all_figures(mode: str, folder: Path) -> None:
    """Runs them, and looks at tables, figures and sentences."""
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
