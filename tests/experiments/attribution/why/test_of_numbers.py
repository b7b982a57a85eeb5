from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from rich.text import Text

from bayes_influence.experiments.attribution.of_run import InfluenceRequest
from bayes_influence.experiments.attribution.why.asked import asked_of_run
from bayes_influence.experiments.attribution.why.explanation import printed_explanation, removal_sentences
from bayes_influence.experiments.attribution.why.of_numbers import OfNumbers
from bayes_influence.experiments.attribution.why.of_run import explain_run
from bayes_influence.experiments.attribution.why.question import UP_AND_DOWN, Effects
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import load_run
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.objectives.reweighting import Removals
from tests.documented import documented_columns


def rooms(count=60):
    """Prices of rooms in thousands, and how long they stayed empty; the noise grows with the size."""
    random = np.random.default_rng(0)
    size, age = random.uniform(10, 60, count), random.uniform(0, 90, count)
    price = 200 + 9 * size - 2 * age + random.normal(0, 0.6, count) * size
    return pd.DataFrame({"size": size, "age": age, "price": price, "empty": 3 + age / 30 + random.normal(0, 1, count)})


@pytest.fixture(scope="module", params=[("weight-decay", ("price",)), ("bnn", ("price", "empty"))])
def run(request, tmp_path_factory):
    scheme, targets = request.param
    folder = tmp_path_factory.mktemp("rooms")
    rooms().drop(columns=[] if len(targets) == 2 else "empty").to_csv(folder / "rooms.csv", index=False)
    settings = TrainRun(str(folder / "rooms.csv"), "mlp", scheme, target=targets, epochs=20, width=4)
    train_and_report(settings, folder / "run", progress=False)
    return folder / "run"


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    return explain_run(run, tmp_path_factory.mktemp("why") / "out", InfluenceRequest((1, 4), top=3), removals=4)


def names_of(found):
    return found.predictions["target"].unique().tolist()


def test_numbers_are_told_in_their_own_units_with_their_intervals(found, run):
    report = pd.read_csv(run / "predictions.csv")
    for row in found.predictions.itertuples():
        own = report[(report["id"] == row.test_id) & (report["target"] == row.target)].iloc[0]
        assert row.true == pytest.approx(own["true"], rel=1e-4)
        assert (row.high - row.low) / 2 == pytest.approx(1.96 * row.deviation, rel=1e-4)
    prices = found.predictions[found.predictions["target"] == "price"]
    assert ((prices["predicted"] - prices["true"]).abs() < 4 * prices["deviation"]).all()
    assert ((prices["deviation"] > 5) & (prices["deviation"] < rooms()["price"].std())).all()


def test_every_column_is_described(found):
    rows = documented_columns("find_mislabelled.md", "Of `why`: the rows, `why.csv`")
    assert pd.read_csv(found.folder / "why.csv").columns.tolist() == [name for name in rows if name != "train_file"]
    for name in ("predictions", "removed"):
        documented = documented_columns("find_mislabelled.md", f"Of `why` for numbers: `{name}.csv`")
        assert pd.read_csv(found.folder / f"{name}.csv").columns.tolist() == documented


def test_predictions_that_no_row_holds_are_not_asked_again(run):
    objective, split, _ = load_run(run)
    request = InfluenceRequest((1, 4))
    asked = asked_of_run(objective, split.train, split.test.select([1, 4]), request)
    count = split.train.targets.reshape(len(split.train), -1).shape[1]
    question = OfNumbers(asked, [1, 4], 3, None, ("a", "b")[:count])
    names = [question._called("prediction", name) for name in question.targets]
    nothing = torch.zeros(2, len(split.train))
    one = nothing.clone()
    one[1, 0] = -1.0
    effects = {name: Effects(one if name == names[0] else nothing, UP_AND_DOWN) for name in names}
    found = question.removed(effects)
    assert found[["test", "target", "kind"]].to_numpy().tolist() == [[4, "a", "up"]]
    empty = question.removed({name: Effects(nothing, UP_AND_DOWN) for name in names})
    assert (len(empty), list(empty.columns)) == (0, list(found.columns))


def test_rows_that_hold_a_number_up_lower_it_when_they_go(found):
    several = len(names_of(found)) > 1
    measured = found.evidence["measurement"].unique().tolist()
    bayesian = len(measured) > 1
    parts = ["prediction", "epistemic"] if bayesian else ["prediction"]
    assert measured == [f"{part} of {name}" if several else part for name in names_of(found) for part in parts]
    numbers = found.evidence[found.evidence["measurement"].str.startswith("prediction")]
    assert (numbers[numbers["kind"] == "up"]["removal"] < 0).all()
    assert (numbers[numbers["kind"] == "down"]["removal"] > 0).all()
    assert (found.removed[found.removed["kind"] == "up"]["retrained"] < 0).all()
    assert (found.removed[found.removed["kind"] == "down"]["retrained"] > 0).all()
    changes = found.removed["predicted_then"] - found.removed["predicted"]
    assert changes.tolist() == pytest.approx(found.removed["retrained"].tolist(), abs=1e-6)
    ratio = found.removed["retrained"] / found.removed["estimated"]
    assert ((ratio > 0.6) & (ratio < 1.7)).all()


def test_what_is_removed_is_named_and_stored(found):
    several = len(names_of(found)) > 1
    for row in found.removed.itertuples():
        own = found.evidence[(found.evidence["test"] == row.test) & (found.evidence["kind"] == row.kind)]
        own = own[own["measurement"] == (f"prediction of {row.target}" if several else "prediction")]
        assert row.removed_ids == " ".join(map(str, own["train_id"]))
        assert row.estimated == pytest.approx(own["removal"].sum())
    stored = pd.read_csv(found.folder / "removed.csv")
    pd.testing.assert_frame_equal(stored, found.removed, check_dtype=False)
    told = found.evidence["train_target"].str.split(", ", expand=True)[0].astype(float).tolist()
    assert told == pytest.approx(rooms()["price"][found.evidence["train_id"]].tolist(), rel=1e-3)


def test_predicted_changes_of_numbers_and_deviations_are_those_of_retraining(run):
    objective, split, _ = load_run(run)
    request = InfluenceRequest((0,), damping=1e-6)
    asked = asked_of_run(objective, split.train, split.test.select([1, 4, 7]), request)
    question = OfNumbers(asked, [1, 4, 7], 2, None, ())
    effects = question.effects(request.influence(asked.objective, asked.train, progress=False))
    places = list(range(0, len(split.train), 4))
    groups = [asked.train.ids[[place]] for place in places]
    refits = asked.protocol.refit(asked.network, asked.train, Removals.of_groups(groups, 1))

    def measured(group):
        at = refits.at(0, group)
        outputs = at.outputs(at.params, asked.tests.inputs)
        if not at.is_bayesian:
            return {"prediction": outputs.reshape(3, -1)}
        mean, variance = (at.likelihood.split(part)[0] for part in (outputs.expectation, outputs.variance))
        return {"prediction": mean, "epistemic": variance.sqrt()}

    control, *after = (measured(group) for group in range(len(groups) + 1))
    count = control["prediction"].reshape(3, -1).shape[1]
    for name, effect in effects.items():
        part, _, target = name.partition(" of target ")
        column = int(target or 0)
        true = torch.stack([(one[part] - control[part]).reshape(3, count)[:, column] for one in after], dim=1)
        estimated = effect.removal[:, places]
        correlation = np.corrcoef(true.detach().numpy().ravel(), estimated.numpy().ravel())[0, 1]
        assert correlation > 0.97, name
        slope = float((true * estimated).sum() / estimated.square().sum())
        assert 0.8 < slope < 1.4, name


def test_brackets_in_the_name_of_a_number_are_printed():
    numbers = {"test": 1, "test_id": 7, "true": 1.0, "predicted": 2.0, "low": 0.0, "high": 4.0}
    described = pd.DataFrame([numbers | {"target": name} for name in ("speed [km/h]", "rate [/day]")])
    title = Text.from_markup(OfNumbers(Mock(), [1], 3, None, ()).title(described)).plain
    assert title == (
        "test 1 (id 7): speed [km/h] 1, predicted 2 (95 % interval 0 to 4); rate [/day] 1, predicted 2 (95 % interval "
        "0 to 4)"
    )


def test_they_are_printed_with_what_they_mean(found):
    first = printed_explanation(found)[0]
    number = found.predictions.iloc[0]
    assert first.title.startswith(f"test 1 (id {number['test_id']}): price {number['true']:.4g}, predicted ")
    headings = [column.header for column in first.columns]
    several = len(names_of(found)) > 1
    assert headings[1] == ("holds the prediction of price up" if several else "holds the prediction up")
    sentence = removal_sentences(found)[1]
    assert (
        f"without {found.removed['removed_ids'][1]}, which hold it down: the predicted price changes by +" in sentence
    )
    assert "as retrained, from " in sentence


def test_several_labels_are_refused(tmp_path):
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"a": random.normal(size=30), "red": random.integers(0, 2, 30), "big": random.integers(0, 2, 30)}
    )
    table.to_csv(tmp_path / "things.csv", index=False)
    settings = TrainRun(
        str(tmp_path / "things.csv"), "mlp", "weight-decay", target=("red", "big"), task="labels", epochs=1, width=2
    )
    train_and_report(settings, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="predicts several labels at a time; `bayes-influence influence` says which"):
        explain_run(tmp_path / "run", tmp_path / "why", InfluenceRequest((0,)))
