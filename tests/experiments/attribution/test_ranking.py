import pandas as pd
import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.pictures import influence_figure
from bayes_influence.experiments.attribution.ranking import described_tests, heading, printed_rankings, ranked
from bayes_influence.influence.influence import Influence
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay

TRAIN = Dataset(
    torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.3], [-0.8, -0.2], [0.2, 1.0]], dtype=torch.float64),
    torch.tensor([0, 0, 1, 1, 0]),
    torch.tensor([10, 11, 12, 13, 14]),
    class_names=("cat", "dog"),
)
TEST = Dataset(
    torch.tensor([[1.0, 0.2], [-0.5, 0.1]], dtype=torch.float64),
    torch.tensor([0, 0]),
    torch.tensor([20, 21]),
    class_names=("cat", "dog"),
)
PICTURED = Dataset(torch.rand(13, 1, 4, 4), torch.arange(13) % 2, torch.arange(10, 23))
"""What could be drawn of both."""


def layer():
    network = nn.Linear(2, 2).double()
    nn.init.zeros_(network.bias)
    network.weight.data = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    return network


@pytest.fixture(scope="module")
def objective():
    return Objective(layer(), CrossEntropy(), WeightDecay(0.1))


@pytest.fixture(scope="module")
def scores(objective):
    return Influence(objective, TRAIN, damping=0.1).on_loss(TEST)


def test_a_test_example_is_described_by_class_prediction_and_loss(objective):
    right, wrong = described_tests(objective, TEST, torch.tensor([3, 8]))
    assert (right["test"], right["test_id"], right["test_target"], right["predicted_target"]) == (3, 20, "cat", "cat")
    assert (wrong["test"], wrong["test_id"], wrong["test_target"], wrong["predicted_target"]) == (8, 21, "cat", "dog")
    # Logits are (2 x, 0): the loss of class 0 is log(1 + exp(-2 x)).
    expected = torch.log1p(torch.exp(-2 * TEST.inputs[:, 0]))
    assert [right["test_loss"], wrong["test_loss"]] == pytest.approx(expected.tolist())


def test_a_bayesian_network_is_described_by_its_expected_outputs():
    objective = Objective(to_bayesian(layer()), TiltedCategorical())
    assert [one["predicted_target"] for one in described_tests(objective, TEST, torch.tensor([0, 1]))] == ["cat", "dog"]


def test_both_ends_of_the_removal_effects_are_ranked(objective, scores):
    described = described_tests(objective, TEST, torch.tensor([0, 1]))[1]
    found = ranked(scores, TRAIN, described, 2)
    removal = dict(zip(TRAIN.ids.tolist(), scores.removal[1].tolist(), strict=True))
    order = sorted(removal, key=removal.get)
    helpful, harmful = (found[found["kind"] == kind] for kind in ("helpful", "harmful"))
    assert helpful["train_id"].tolist() == order[:-3:-1]
    assert harmful["train_id"].tolist() == order[:2]
    assert helpful["removal"].tolist() == [removal[example] for example in order[:-3:-1]]
    assert helpful["removal"].iloc[0] > 0 > harmful["removal"].iloc[0]
    names = {10: "cat", 11: "cat", 12: "dog", 13: "dog", 14: "cat"}
    assert found["train_target"].tolist() == [names[example] for example in found["train_id"]]
    assert found["rank"].tolist() == [1, 2, 1, 2]
    assert set(found["test_id"]) == {21}


def test_no_example_is_ranked_at_both_ends_however_many_are_asked_for(objective, scores):
    described = described_tests(objective, TEST, torch.tensor([0, 1]))[1]
    found = ranked(scores, TRAIN, described, 4)
    assert sorted(found["train_id"]) == TRAIN.ids.tolist()
    helpful, harmful = (found[found["kind"] == kind] for kind in ("helpful", "harmful"))
    assert (helpful["removal"] > 0).all()
    assert (harmful["removal"] < 0).all()
    assert helpful["rank"].tolist() == list(range(1, len(helpful) + 1))
    (table,) = printed_rankings(found)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == [str(rank) for rank in range(1, max(len(helpful), len(harmful)) + 1)]
    assert sorted(filter(None, cells[1] + cells[4])) == [str(one) for one in TRAIN.ids.tolist()]
    assert influence_figure(found, PICTURED, PICTURED).axes


def test_a_ranking_is_printed_as_one_table_per_test_example(objective, scores):
    described = described_tests(objective, TEST, torch.tensor([0, 1]))
    tables = printed_rankings(pd.concat([ranked(scores, TRAIN, test, 2) for test in described]))
    assert [table.title.split(",")[0] for table in tables] == ["test 0 (id 20): cat", "test 1 (id 21): cat"]
    first = [list(column.cells) for column in tables[0].columns]
    best = ranked(scores, TRAIN, described[0], 1).iloc[0]
    assert first[0] == ["1", "2"]
    assert (first[1][0], first[2][0], first[3][0]) == (
        str(best["train_id"]), best["train_target"], f"{best['removal']:+.3e}"
    )  # fmt: skip


def test_more_test_examples_than_tables_are_printed_as_rows_of_one(objective, scores):
    described = described_tests(objective, TEST, torch.tensor([0, 1]))
    parts = [ranked(scores, TRAIN, test | {"test": number}, 4) for number, test in enumerate(described * 2)]
    (table,) = printed_rankings(pd.concat(parts))
    assert table.title == "4 test examples"
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["test"] == ["0", "1", "2", "3"]
    assert columns["target"] == ["cat"] * 4
    best = parts[1][parts[1]["kind"] == "harmful"].head(3)
    named = [f"{one.train_id} ({one.removal:+.1e})" for one in best.itertuples()]
    assert columns["▼ most harmful"][1] == ", ".join(named)
    assert table.caption.endswith("when one is left out, the first 3; all that are ranked are in the files")


def test_another_measurement_is_called_by_its_name(objective, scores):
    described = described_tests(objective, TEST, torch.tensor([0, 1]))
    (table,) = printed_rankings(ranked(scores, TRAIN, described[0], 1), "margin")
    assert [str(column.header) for column in table.columns][1::3] == [
        "▲ holds the margin down",
        "▼ holds the margin up",
    ]
    in_units = "prediction (in standard deviations of the target)"
    assert heading("helpful", in_units) == "holds the prediction down"
    assert table.caption == "removal: predicted change of the margin when the training example is left out"


def test_new_rows_are_called_rows_and_have_no_loss_where_they_have_no_target(objective, scores):
    described = described_tests(objective, TEST, torch.tensor([0, 1]))
    untold = [test | {"test_loss": float("nan"), "test": number} for number, test in enumerate(described * 2)]
    found = pd.concat([ranked(scores, TRAIN, test, 1) for test in untold])
    (table,) = printed_rankings(found, "prediction (in standard deviations)", new=True)
    assert table.title == "4 new rows"
    assert [str(column.header) for column in table.columns] == [
        *("row", "target", "predicted", "▲ holds the prediction down", "▼ holds the prediction up")
    ]
    assert "change of the prediction (in standard deviations) when" in table.caption
    (alone,) = printed_rankings(found[found["test"] == 1], new=True)
    assert alone.title == "row 1: cat, predicted dog"
