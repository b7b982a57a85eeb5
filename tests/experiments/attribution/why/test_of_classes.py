import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.experiments.attribution.of_run import InfluenceRequest
from bayes_influence.experiments.attribution.why.asked import asked_of_run
from bayes_influence.experiments.attribution.why.explanation import printed_explanation, removal_sentences
from bayes_influence.experiments.attribution.why.of_classes import OfClasses, uncertainties, uncertainty_effects
from bayes_influence.experiments.attribution.why.of_run import explain_run
from bayes_influence.experiments.attribution.why.question import FOR_AND_AGAINST, Effects
from bayes_influence.experiments.stored import inspected
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import load_run
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.objectives.reweighting import Removals


@pytest.fixture(scope="module", params=["weight-decay", "bnn"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / request.param
    train_and_report(TrainRun("iris", "mlp", request.param, epochs=15, width=3), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def found(run, tmp_path_factory):
    request = InfluenceRequest((3, 12), top=4)
    return explain_run(run, tmp_path_factory.mktemp("why") / "out", request, removals=4, progress=False)


def test_evidence_is_named_with_its_direction_and_stored(found, run):
    bayesian = run.name == "bnn"
    measured = ["prediction", "epistemic", "aleatoric"] if bayesian else ["prediction", "aleatoric"]
    assert found.evidence["measurement"].unique().tolist() == measured
    assert len(found.evidence) == 2 * len(measured) * 2 * 4
    prediction = found.evidence[found.evidence["measurement"] == "prediction"]
    assert (prediction[prediction["kind"] == "for"]["removal"] > 0).all()
    assert (prediction[prediction["kind"] == "against"]["removal"] < 0).all()
    for _, rows in found.evidence.groupby(["test", "measurement", "kind"]):
        assert rows["removal"].abs().is_monotonic_decreasing
    named = prediction[prediction["kind"] == "for"].groupby("test")["train_target"].first()
    assert named.tolist() == found.predictions["predicted"].tolist()
    stored = pd.read_csv(found.folder / "why.csv")
    pd.testing.assert_frame_equal(stored, found.evidence, check_dtype=False)
    assert (found.folder / "verdict.txt").read_text().strip() == found.verdict
    assert inspected(found.folder).kind == "explanation of a run's predictions"
    assert (found.predictions["epistemic"] > 0).all() == bayesian
    parts = found.predictions["epistemic"] + found.predictions["aleatoric"]
    assert parts.tolist() == pytest.approx(found.predictions["entropy"].tolist())


def test_removing_the_first_rows_does_what_was_estimated(found):
    assert (found.removed["retrained"] > 0).all()
    assert (found.removed["probability_then"] < found.removed["probability"]).all()
    ratio = found.removed["retrained"] / found.removed["estimated"]
    assert ((ratio > 0.7) & (ratio < 1.6)).all()
    first = found.evidence.query("measurement == 'prediction' and kind == 'for'")
    assert found.removed["estimated"].tolist() == pytest.approx(first.groupby("test")["removal"].sum().tolist())


def test_predictions_that_no_row_is_for_are_not_asked_again(run):
    objective, split, _ = load_run(run)
    asked = asked_of_run(objective, split.train, split.test.select([3, 12]), InfluenceRequest((3, 12)))
    question, nothing = OfClasses(asked, [3, 12], 4), torch.zeros(2, len(split.train))
    one = nothing.clone()
    one[1, 5] = 1.0
    found = question.removed({"prediction": Effects(one, FOR_AND_AGAINST)})
    assert found[["test", "removed_ids"]].to_numpy().tolist() == [[12, str(int(split.train.ids[5]))]]
    empty = question.removed({"prediction": Effects(nothing, FOR_AND_AGAINST)})
    assert (len(empty), list(empty.columns)) == (0, list(found.columns))


def test_predicted_changes_of_uncertainty_are_those_of_retraining(run):
    objective, split, _ = load_run(run)
    asked = asked_of_run(objective, split.train, split.test.select([3, 12, 20]), InfluenceRequest((0,)))
    influence = InfluenceRequest((0,), damping=1e-6).influence(asked.objective, asked.train, progress=False)
    effects = uncertainty_effects(influence, asked)
    places = list(range(0, 120, 10))
    groups = [asked.train.ids[[place]] for place in places]
    refits = asked.protocol.refit(asked.network, asked.train, Removals.of_groups(groups, 1))
    control, *after = (uncertainties(refits.at(0, index), asked.tests) for index in range(len(groups) + 1))
    for name in effects:
        true = np.array([(one[name] - control[name]).tolist() for one in after])
        estimated = effects[name][:, places].T.numpy()
        assert np.corrcoef(true.ravel(), estimated.ravel())[0, 1] > 0.97


def test_it_is_printed_with_what_it_means(found):
    tables = printed_explanation(found)
    assert len(tables) == 2
    assert tables[0].title.startswith(f"test 3 (id {found.predictions['test_id'][0]}): ")
    headings = [column.header for column in tables[0].columns]
    assert headings[:3] == ["rank", "for the prediction", "against the prediction"]
    assert "makes it surer (aleatoric)" in headings
    first = removal_sentences(found)[0]
    assert first.startswith(f"test 3 without {found.removed['removed_ids'][0]}: the loss of ")
    assert "as retrained" in first


def test_more_rows_than_there_are_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"of 120 training examples 3 to 119 can be removed, got removals=2 and top=5"):
        explain_run(run, tmp_path / "a", InfluenceRequest((0,), top=5), removals=2)
