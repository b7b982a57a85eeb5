import pandas as pd
import pytest

from bayes_influence.experiments.papers.fragility.ablation_images import (
    ImageAblationStudy,
    named,
    reproduce_image_ablation,
)
from bayes_influence.experiments.papers.fragility.image_settings import SCALES, ImageStudy
from bayes_influence.experiments.papers.fragility.images import measure_images

SMALL = {"scale": "quick", "epochs": 4, "refit_epochs": 2, "removals": 6, "train_examples": 60}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of one network, and where it is stored."""
    out = tmp_path_factory.mktemp("ablation")
    return reproduce_image_ablation(ImageAblationStudy(**SMALL, repeats=1), out, 1, progress=False), out


def test_the_study_writes_table_figure_and_sentences(whole):
    found, out = whole
    assert {
        "ablation-images.csv",
        "ablation-images-pairs.csv",
        "ablation-images.png",
        "ablation-images-summary.txt",
    } <= {path.name for path in out.iterdir()}
    assert [sentence.partition(": signed")[0] for sentence in found.findings] == [
        "digits FC-8, test image of largest loss",
        "digits FC-8, test image of median loss",
    ]


@pytest.mark.parametrize(("mode", "choice"), [("as-published", "as published"), ("corrected", "exact_refits")])
def test_it_goes_from_the_published_figure_to_the_corrected_one(whole, tmp_path, mode, choice):
    """The ends of the way are the two modes of figure 2, on the same network and images."""
    results = pd.read_csv(whole[1] / "results.csv")
    (cell,) = ImageStudy(**SMALL, mode=mode, networks=("digits FC-8",), repeats=1).cells().values()
    expected = measure_images(cell, tmp_path, None).tables["results"]
    ends = results[(results["way"] == "together") & (results["choice"] == choice)]
    for column in ("test_example", "spearman", "pearson", "slope", "relative_drift", "train_accuracy"):
        assert ends[column].to_numpy() == pytest.approx(expected[column].to_numpy(), abs=1e-12), column


def test_the_sign_alone_turns_the_correlation_over_and_a_control_does_nothing_to_it(whole):
    results = pd.read_csv(whole[1] / "results.csv")
    assert len(results) == 2 * 2 * 9
    assert not results.duplicated(["test", "way", "choice"]).any()
    alone = results[results["way"] == "alone"].set_index(["test", "choice"])["spearman"]
    for which in ("max", "median"):
        published = alone[which, "as published"]
        assert alone[which, "removal_sign"] == pytest.approx(-published, abs=1e-12)
        assert alone[which, "control"] == pytest.approx(published, abs=1e-12)


def test_seeds_can_be_added_to_a_folder_and_other_lengths_are_refused(whole):
    folder = whole[1]
    with pytest.raises(ValueError, match="refit_epochs is 2 there and 4 here"):
        reproduce_image_ablation(ImageAblationStudy(**{**SMALL, "refit_epochs": 4}), folder, 1, progress=False)
    assert ImageAblationStudy(repeats=2).configuration() == ImageAblationStudy(repeats=5, seed=3).configuration()


def test_scales_are_its_own_and_its_cells_are_those_of_figure_two():
    study = ImageAblationStudy(networks=("MNIST LeNet",), repeats=1)
    (cell,) = study.cells().values()
    assert (cell.network.label, cell.epochs, cell.refit_epochs, cell.train_examples) == ("MNIST LeNet", 30, 100, 10_000)
    assert study.size != SCALES["medium"]
    assert "mode" not in study.configuration()


def test_networks_and_test_images_are_said_in_words():
    found = named(pd.DataFrame({"network": ["MNIST LeNet", "MNIST FC-8"], "test": ["max", "median"]}))
    assert found["of"].tolist() == ["MNIST LeNet, test image of largest loss", "MNIST FC-8, test image of median loss"]
