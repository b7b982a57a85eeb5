import pandas as pd
import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.influence_run import influence_figure, influence_of_run, printed_ranking
from bayes_influence.experiments.train_report import train_and_report
from bayes_influence.experiments.train_run import TrainRun, load_run
from bayes_influence.influence.scores import InfluenceScores


@pytest.fixture(scope="session")
def iris_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "iris"
    run = TrainRun(dataset="iris", network="mlp", scheme="weight-decay", epochs=3, width=5)
    train_and_report(run, folder)
    return folder


def test_the_ranking_is_that_of_the_stored_scores(iris_run, tmp_path):
    _, split, _ = load_run(iris_run)
    test_id = int(split.test.ids[0])
    found = influence_of_run(iris_run, tmp_path / "out", [test_id], top=4, progress=False, parameters="last-layer")
    scores = InfluenceScores.load(found.folder / "scores.safetensors")
    removal = scores.removal[0]
    helpful = found.ranking.query("kind == 'helpful'")
    assert helpful["removal"].tolist() == pytest.approx(removal.topk(4)[0].tolist())
    harmful = found.ranking.query("kind == 'harmful'")
    assert harmful["train_id"].tolist() == scores.train_ids[removal.argsort()[:4]].tolist()
    written = pd.read_csv(found.folder / "influence.csv")
    pd.testing.assert_frame_equal(written, found.ranking, check_dtype=False)
    assert len(printed_ranking(found.ranking).rows) == 8


def test_unknown_test_examples_are_named_with_those_there_are(iris_run, tmp_path):
    _, split, _ = load_run(iris_run)
    with pytest.raises(ValueError, match=rf"iris: no test example has id {int(split.train.ids[0])}; the 30 test"):
        influence_of_run(iris_run, tmp_path / "out", [int(split.train.ids[0])], progress=False)


def test_more_than_there_are_cannot_be_ranked(iris_run, tmp_path):
    _, split, _ = load_run(iris_run)
    with pytest.raises(ValueError, match=r"top must lie in 1\.\.120, got 121"):
        influence_of_run(iris_run, tmp_path / "out", [int(split.test.ids[0])], top=121, progress=False)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        influence_of_run(tmp_path, tmp_path / "out", [0], progress=False)


def test_images_are_shown_with_their_most_helpful_and_harmful_ones():
    generator = torch.Generator().manual_seed(0)
    train = Dataset(torch.rand(6, 3, 4, 4, generator=generator), torch.arange(6) % 2, torch.arange(6))
    test = Dataset(torch.rand(1, 3, 4, 4, generator=generator), torch.tensor([1]), torch.tensor([6]))
    rows = [
        {
            "test_id": 6,
            "test_class": "1",
            "kind": kind,
            "rank": rank,
            "train_id": rank,
            "train_class": "0",
            "removal": 0.1,
        }
        for kind in ("helpful", "harmful")
        for rank in (1, 2, 3)
    ]
    figure = influence_figure(pd.DataFrame(rows), train, test)
    assert len(figure.axes) == 1 + 2 * 3
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["helpful", "harmful"]
    assert figure.axes[0].get_title() == "test 6: 1"
