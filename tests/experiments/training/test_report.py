from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import ImageSet
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.report import (
    POSTERIOR_SAMPLES,
    Predicted,
    outside_examples,
    predict_all,
    report_row,
    train_and_report,
)
from bayes_influence.experiments.training.run import load_trained
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.moments.softmax import softmax
from bayes_influence.objectives.expected_likelihoods import ExpectedBernoulli
from bayes_influence.objectives.likelihoods import Bernoulli, GaussianNoise
from bayes_influence.objectives.members import member, stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.posteriors import linearized_outputs
from bayes_influence.objectives.prediction import LOGIT_DRAWS, predict, probit_probabilities
from bayes_influence.training.laplace import laplace
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule

RUN = TrainRun("iris", "mlp", seeds=(3, 4), epochs=8, batch_size=32, width=5, learning_rate=0.02)


def run_of(scheme, folder):
    report = train_and_report(replace(RUN, scheme=scheme), folder, progress=False)
    return report, *load_trained(folder)[:2]


@pytest.fixture(scope="module")
def bayesian(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, *run_of("bnn", folder)


def test_a_report_has_a_row_per_seed_and_is_stored(bayesian):
    folder, report, trained, split = bayesian
    assert report["seed"].tolist() == [3, 4]
    predicted = predict_all(trained, 1, split.test)
    accuracy = float((predicted.probabilities.argmax(1) == split.test.targets).double().mean())
    assert report["accuracy"][1] == pytest.approx(accuracy)
    nll = -predicted.probabilities.log().gather(1, split.test.targets.unsqueeze(1)).mean()
    assert report["nll"][1] == pytest.approx(float(nll), rel=1e-5)
    assert report["variance_auroc"].notna().all()
    assert report["outside_variance_auroc"].isna().all()
    assert (report["variance_ratio"] > 0).all()
    assert report["neglect"].str.contains("most is lost or added at").all()
    history = pd.read_csv(folder / "history.csv")
    np.testing.assert_allclose(history["objective"].to_numpy().reshape(8, 2), trained.values, rtol=1e-6)
    assert history["epoch"].tolist()[-2:] == [8, 8]
    assert {"reliability.csv", "reliability.png", "reliability.pdf", "report.csv"} <= {
        path.name for path in folder.iterdir()
    }
    run = replace(RUN, scheme="bnn")
    again = train_and_report(run, folder, progress=False)
    pd.testing.assert_frame_equal(again, report)
    assert (train_and_report(run, folder, mode="linearized", progress=False)["nll"] != report["nll"]).all()


def test_a_bayesian_network_predicts_by_probit_with_the_variance_of_its_softmax(bayesian):
    _, _, trained, split = bayesian
    predicted = predict_all(trained, 0, split.test)
    objective = trained.at(0)
    logits = objective.outputs(objective.params, split.test.inputs)
    torch.testing.assert_close(predicted.probabilities, probit_probabilities(logits))
    torch.testing.assert_close(predicted.variance, softmax(logits, dim=-1).variance.sum(-1))


def test_swag_predicts_by_the_mean_over_its_samples(tmp_path):
    _, trained, split = run_of("swag", tmp_path / "run")
    predicted = predict_all(trained, 1, split.test)
    draws = trained.posteriors[1].sample(POSTERIOR_SAMPLES, torch.Generator().manual_seed(0))
    objective = trained.at(1)
    outputs = [objective.outputs(member(draws, draw), split.test.inputs) for draw in range(POSTERIOR_SAMPLES)]
    probabilities = torch.softmax(torch.stack(outputs), dim=-1)
    torch.testing.assert_close(predicted.probabilities, probabilities.mean(0))
    torch.testing.assert_close(predicted.variance, probabilities.var(0).sum(-1))


def test_laplace_predicts_by_the_linearised_moments_of_its_posterior(tmp_path):
    report, trained, split = run_of("laplace", tmp_path / "run")
    objective = trained.at(1)
    posterior = laplace(objective, split.train)
    predicted = predict_all(trained, 1, split.test, posterior=posterior)
    draws = linearized_outputs(objective, posterior, split.test.inputs).draws(LOGIT_DRAWS)
    probabilities = torch.softmax(draws, dim=-1)
    torch.testing.assert_close(predicted.probabilities, probabilities.mean(0))
    torch.testing.assert_close(predicted.variance, probabilities.var(0).sum(-1))
    torch.testing.assert_close(
        predicted.probabilities, predict(objective, split.test.inputs, posterior=posterior).probabilities
    )
    nll = -predicted.probabilities.log().gather(1, split.test.targets.unsqueeze(1)).mean()
    assert report["nll"][1] == pytest.approx(float(nll), rel=1e-5)
    drawn = predict_all(trained, 1, split.test, "sampled", posterior)
    assert 0 < (drawn.probabilities - predicted.probabilities).abs().mean() < 0.1


def test_a_deep_ensemble_predicts_by_the_mean_of_its_members(tmp_path):
    report, trained, split = run_of("deep-ensemble", tmp_path / "run")
    predicted = predict_all(trained, 1, split.test)
    objective = trained.at(1)
    each = torch.softmax(objective.network(split.test.inputs), dim=-1)
    torch.testing.assert_close(predicted.probabilities, each.mean(1))
    torch.testing.assert_close(predicted.variance, each.var(1).sum(-1))
    assert report["variance_auroc"].notna().all()
    assert StudyFolder.open(tmp_path / "run").config["scheme_options"]["size"] == 5


def test_a_single_network_has_no_variance(tmp_path):
    report, trained, split = run_of("weight-decay", tmp_path / "run")
    assert predict_all(trained, 0, split.test).variance is None
    assert report["variance_auroc"].isna().all()


def trained_on(data, network, likelihood, epochs):
    start = Objective(network, likelihood)
    return train_minibatches(start, stack_members([start.params]), data, MinibatchSchedule(epochs, 30, 0.1), [0])


@pytest.mark.parametrize("likelihood", [Bernoulli(), ExpectedBernoulli()])
def test_a_report_on_one_logit_is_that_on_two_classes(likelihood):
    inputs = torch.randn(30, 3)
    data = Dataset(inputs, (inputs[:, 0] + 0.5 * torch.randn(30) > 0).long(), torch.arange(30))
    network = nn.Linear(3, 1)
    network = to_bayesian(network, initial_sigma=0.5) if likelihood.moments else network
    trained = trained_on(data, network, likelihood, epochs=40)
    predicted = predict_all(trained, 0, data)
    logits = trained.at(0).outputs(trained.at(0).params, inputs)
    on = logits.expectation / torch.sqrt(1 + torch.pi / 8 * logits.variance) if likelihood.moments else logits
    torch.testing.assert_close(predicted.probabilities[:, 1], torch.sigmoid(on).squeeze(1))
    row = report_row(predicted, data)
    right = (on.squeeze(1) > 0) == data.targets.bool()
    assert row["accuracy"] == pytest.approx(float(right.double().mean()))
    assert row["nll"] == pytest.approx(float(Bernoulli()(on, data.targets).mean()), rel=1e-5)
    assert (predicted.variance is not None) == likelihood.moments


def test_a_report_on_several_labels_or_real_numbers_is_refused():
    data = Dataset(torch.randn(4, 3), torch.eye(4, 3), torch.arange(4), "toy")
    with pytest.raises(ValueError, match="toy: a report is on one class per example, got 3 labels each; take what"):
        predict_all(trained_on(data, nn.Linear(3, 3), Bernoulli(), epochs=1), 0, data)
    with pytest.raises(TypeError, match="a prediction of classes is asked for, and GaussianNoise means real"):
        predict_all(trained_on(data, nn.Linear(3, 3), GaussianNoise(), epochs=1), 0, data)


def test_uncertainty_is_held_against_errors_and_against_examples_from_elsewhere():
    data = Dataset(torch.zeros(4, 1), torch.tensor([0, 0, 1, 1]), torch.arange(4))
    inside = Predicted(
        torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.6, 0.4]]), torch.tensor([0.1, 0.4, 0.2, 0.3])
    )
    outside = Predicted(torch.tensor([[0.5, 0.5], [0.7, 0.3]]), torch.tensor([0.35, 0.0]))
    row = report_row(inside, data, outside)
    assert row["accuracy"] == 0.75
    assert row["misclassification_auroc"] == 1.0
    assert row["variance_auroc"] == pytest.approx(2 / 3)
    assert row["outside_entropy_auroc"] == pytest.approx((4 + 3) / 8)
    assert row["outside_variance_auroc"] == pytest.approx(3 / 8)


def test_tables_have_nothing_outside_and_absent_images_are_a_warning(tmp_path, caplog, monkeypatch):
    assert outside_examples(RUN, tmp_path) is None

    def absent(self, *arguments):
        raise FileNotFoundError(f"{self.source.name}: no such file")

    monkeypatch.setattr(ImageSet, "raw_split", absent)
    assert outside_examples(replace(RUN, dataset="mnist"), tmp_path) is None
    assert "no out-of-distribution examples: fashion-mnist: no such file" in caplog.text
