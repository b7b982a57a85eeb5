import pandas as pd
import pytest
from scipy.stats import spearmanr

from bayes_influence.data.download import Source
from bayes_influence.experiments.papers.fragility.image_settings import ImageStudy
from bayes_influence.experiments.papers.fragility.images import image_findings, reproduce_images
from bayes_influence.experiments.papers.means import mean_table
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import FailedCellsError

SMALL = {
    "networks": ("digits FC-8",),
    "repeats": 1,
    "epochs": 2,
    "refit_epochs": 4,
    "removals": 6,
    "train_examples": 200,
}


@pytest.mark.parametrize("mode", ["corrected", "as-published"])
def test_figure_two_has_both_test_examples_of_every_network(tmp_path, mode):
    study = ImageStudy(**{**SMALL, "networks": ("digits FC-8", "digits FC-8 BNN")}, mode=mode)
    found = reproduce_images(study, tmp_path, 1, progress=False)
    assert found.table["test"].tolist() == ["max", "median"] * 2
    assert {"fig2.png", "results.csv", "fig2-summary.csv", "fig2-summary.txt"} <= {
        one.name for one in tmp_path.iterdir()
    }
    results = pd.read_csv(tmp_path / "results.csv")
    assert results["n"].tolist() == [6] * 4
    assert results["converged"].all() == (mode == "corrected")


def test_statistics_are_those_of_the_stored_differences_and_seeds_can_be_added(tmp_path):
    study = ImageStudy(**SMALL)
    reproduce_images(study, tmp_path, 1, progress=False)
    differences = StudyFolder.open(tmp_path).table("differences")
    results = pd.read_csv(tmp_path / "results.csv").set_index("test")
    for which, points in differences.groupby("test"):
        expected = spearmanr(points["estimated"], points["true"])[0]
        assert results.loc[which, "spearman"] == pytest.approx(expected)
    more = reproduce_images(ImageStudy(**{**SMALL, "repeats": 2}), tmp_path, 1, progress=False)
    assert len(pd.read_csv(tmp_path / "results.csv")) == 4
    assert "(2 seeds)" in more.findings[0]


def test_a_missing_data_set_is_a_failure_that_says_how_to_get_it(tmp_path, monkeypatch):
    study = ImageStudy(**{**SMALL, "networks": ("MNIST FC-8", "digits FC-8")}, data_folder=str(tmp_path / "nothing"))
    monkeypatch.setattr(Source, "contents", _missing)
    with pytest.raises(FailedCellsError, match=r"1 of 2 cells failed.*FileNotFoundError: mnist: no such file"):
        reproduce_images(study, tmp_path / "out", 1, progress=False)
    recorded = pd.read_csv(tmp_path / "out" / "failures.csv")
    assert recorded["cell"].tolist() == ["network=MNIST_FC-8,seed=0"]


def _missing(self, folder=None, download=True):
    raise FileNotFoundError(f"{self.name}: no such file")


def test_sentences_have_the_published_number_beside_ours():
    results = pd.DataFrame(
        {"network": "MNIST LeNet", "test": ["max", "max", "median", "median"], "spearman": [0.9, 1.0, 0.8, 0.9]}
    )
    (sentence,) = image_findings(mean_table(results, ["network", "test"], ["spearman"]))
    assert sentence.startswith("MNIST LeNet: signed Spearman 0.95 (0.315 … 1) at the max loss, 0.85 (0.215 … 1)")
    assert sentence.endswith("(2 seeds); the authors' outputs have |Spearman| 0.098, signed -0.01.")
