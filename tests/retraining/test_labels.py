"""Networks of one logit and of several labels, from training to refits: what is predicted is what retraining does."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import bayes_influence as bi
from bayes_influence.influence.measurements import PredictiveMeasurement
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.prediction import predict
from bayes_influence.objectives.predictive import Predictive
from bayes_influence.retraining.refits import outputs_after
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule

GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(48, 3, generator=GENERATOR, dtype=torch.float64)
NOISY = INPUTS + 0.7 * torch.randn(48, 3, generator=GENERATOR, dtype=torch.float64)
LABELS = (NOISY > 0).long()
IDS = torch.arange(200, 248)
REMOVED = IDS[:20]


@dataclass
class Case:
    """A network, its likelihood, its targets and what is measured beside the loss."""

    network: nn.Module
    likelihood: Predictive
    targets: torch.Tensor
    measurement: PredictiveMeasurement

    @property
    def split(self):
        data = bi.Dataset(INPUTS, self.targets, IDS, "labels")
        return data.select(range(40)), data.select(range(40, 48))


def tanh_network(outputs):
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, outputs)).double()


def bayesian(outputs):
    return bi.to_bayesian(nn.Linear(3, outputs).double(), initial_sigma=0.3)


CASES = {
    "one logit": (lambda: nn.Linear(3, 1).double(), bi.Bernoulli(), LABELS[:, 0], bi.PredictiveEntropy()),
    "one logit, a hidden layer": (lambda: tanh_network(1), bi.Bernoulli(), LABELS[:, 0], bi.PredictiveVariance()),
    "one logit, a column of real labels": (
        lambda: nn.Linear(3, 1).double(),
        bi.Bernoulli(),
        LABELS[:, :1].double(),
        bi.Margin(),
    ),
    "several labels": (lambda: nn.Linear(3, 3).double(), bi.Bernoulli(), LABELS, bi.PredictiveEntropy()),
    "several labels, a hidden layer": (lambda: tanh_network(3), bi.Bernoulli(), LABELS, bi.PredictiveEntropy()),
    "weighted classes, smoothed": (
        lambda: nn.Linear(3, 4).double(),
        bi.CrossEntropy((1.0, 0.5, 2.0, 1.0), label_smoothing=0.1),
        LABELS.sum(1),
        bi.PredictiveEntropy(),
    ),
    "one random logit": (lambda: bayesian(1), bi.ExpectedBernoulli(), LABELS[:, 0], bi.PredictiveEntropy()),
    "several random labels": (lambda: bayesian(3), bi.ExpectedBernoulli(), LABELS, bi.MutualInformation()),
}


@pytest.fixture(params=CASES)
def case(request):
    make, *rest = CASES[request.param]
    torch.manual_seed(0)
    return Case(make(), *rest)


def fitted(case):
    """Trained by Adam from the start, and then brought to the minimum."""
    train, _ = case.split
    regulariser = bi.GaussianKL(len(train)) if case.likelihood.moments else bi.WeightDecay(0.06)
    start = bi.Objective(case.network, case.likelihood, regulariser)
    trained = train_ensemble(start, stack_members([start.params]), train.batch(), bi.Schedule(300, 0.05))
    assert trained.values < trained.trace[0]
    return bi.minimum_of(start.at({name: value[0] for name, value in trained.params.items()}), train)


def assert_same_effects(predicted, true):
    """Of the same sign wherever it is no small one, and of the same size but for the second order of a removal."""
    large = true.abs() > 0.2 * true.abs().amax()
    assert large.sum() > 5
    assert torch.equal(predicted[large].sign(), true[large].sign())
    assert torch.corrcoef(torch.stack([predicted.flatten(), true.flatten()]))[0, 1] > 0.97
    assert 0.75 < (predicted * true).sum() / true.square().sum() < 1.1


def test_influence_is_what_retraining_does(case):
    train, test = case.split
    objective = fitted(case)
    influence = bi.Influence(objective, train, damping=0.0)
    refits = bi.Minimum(tolerance=1e-8).refit(objective, train, REMOVED)
    assert refits.converged.all()
    rows = train.positions(REMOVED)
    assert_same_effects(influence.on_loss(test).removal[:, rows], bi.loss_changes(refits, test)[0].T)

    measured = case.measurement.of(objective.likelihood)
    outputs = outputs_after(refits, test)
    each = torch.stack([measured(outputs[0, row], test.targets) for row in range(len(REMOVED) + 1)])
    on_measured = influence.on_measurement(case.measurement, test).removal[:, rows]
    assert_same_effects(on_measured, (each[1:] - each[0]).T)


@pytest.mark.parametrize("name", ["one random logit", "several random labels"])
def test_predictions_of_labels_are_those_of_samples(name):
    make, *rest = CASES[name]
    case = Case(make(), *rest)
    _, test = case.split
    objective = fitted(case)
    found = predict(objective, test.inputs)
    sampled = predict(objective, test.inputs, mode="sampled", n_samples=4000)
    assert found.probabilities.shape == (8, 2) if name == "one random logit" else (8, 3, 2)
    torch.testing.assert_close(found.probabilities, sampled.probabilities, rtol=0, atol=0.02)
    on = sampled.probabilities[..., 1].reshape(8, -1)
    torch.testing.assert_close(found.total, torch.distributions.Bernoulli(on).entropy().sum(1), rtol=0, atol=0.03)
    torch.testing.assert_close(found.epistemic, sampled.epistemic, rtol=0, atol=0.03)


REFUSED = {
    "-1 and 1": (bi.Bernoulli(), 1, 2.0 * LABELS[:, 0] - 1, ValueError, r"0 or 1, got -1 .* first is (id 20|example)"),
    "soft": (bi.Bernoulli(), 3, LABELS * 0.9 + 0.05, ValueError, r"0 or 1, got 0\.05 .* first is (id 200|example 0)"),
    "ignored": (bi.Bernoulli(), 3, LABELS - 100 * torch.eye(48, 3).long(), ValueError, "0 or 1, got -.* (id 200|exam)"),
    "one for several": (
        bi.Bernoulli(),
        3,
        LABELS[:, 0],
        ValueError,
        r"of shape \(3,\) and targets of shape \(\)",
    ),
    "one softmax": (bi.CrossEntropy(), 1, LABELS[:, 0], ValueError, "one logit of two classes is Bernoulli's"),
    "several labels": (bi.CrossEntropy(), 3, LABELS, ValueError, "one class per example, .* Bernoulli for several"),
    "real numbers": (bi.CrossEntropy(), 3, INPUTS[:, 0], TypeError, "GaussianNoise for real targets"),
    "from 1": (bi.CrossEntropy(), 2, LABELS[:, 0] + 1, ValueError, r"classes in 0\.\.1, .* got 2 .* number the cl"),
    "classes": (bi.GaussianNoise(), 1, LABELS[:, 0], TypeError, "needs real targets, got torch.int64"),
    "a row": (bi.GaussianNoise(), 1, INPUTS[:, 0], ValueError, r"means \(\d+, 1\), got \(\d+,\)"),
}
FITTING = {
    bi.CrossEntropy: lambda outputs: LABELS[:, 0],
    bi.Bernoulli: lambda outputs: LABELS[:, :outputs].double(),
    bi.GaussianNoise: lambda outputs: INPUTS[:, :outputs],
}


def train_on(objective, data, fitting):
    train_ensemble(objective, stack_members([objective.params]), data.batch(), bi.Schedule(2, 0.05))


DOORS = {
    "train": train_on,
    "minimise": lambda objective, data, fitting: bi.minimum_of(objective, data),
    "influence": lambda objective, data, fitting: bi.Influence(objective, data),
    "test": lambda objective, data, fitting: bi.Influence(objective, fitting, damping=0.1).on_loss(data),
    "measure": lambda objective, data, fitting: bi.Influence(objective, fitting, damping=0.1).on_measurement(
        bi.PredictiveEntropy(), data
    ),
    "refit": lambda objective, data, fitting: bi.Minimum().refit(objective, data, REMOVED),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", REFUSED)
def test_every_door_refuses_targets_that_do_not_fit(name, door, as_installed):
    likelihood, outputs, targets, error, message = REFUSED[name]
    data = bi.Dataset(INPUTS, targets, IDS, "labels")
    fitting = bi.Dataset(INPUTS, FITTING[type(likelihood)](outputs), IDS, "labels")
    objective = bi.Objective(nn.Linear(3, outputs).double(), likelihood, bi.WeightDecay(0.06))
    with pytest.raises(error, match=message) as caught:
        DOORS[door](objective, data, fitting)
    assert str(caught.value).startswith("the batch: " if door == "train" else "labels: ")


def soft(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def sequence(outputs, targets):
    """Mean over the positions, those of target -100 left out."""
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none", ignore_index=-100).mean(1)


OWN = {
    "soft": (INPUTS, soft, torch.softmax(NOISY, 1)),
    "sequence": (INPUTS[:, :, None].expand(-1, -1, 3) * torch.eye(3), sequence, torch.where(NOISY > 1, -100, LABELS)),
}


@pytest.mark.parametrize("name", OWN)
def test_the_users_own_loss_may_take_any_targets_and_no_accuracy_is_reported(name):
    inputs, likelihood, targets = OWN[name]
    train = bi.Dataset(inputs[:40], targets[:40], IDS[:40])
    test = bi.Dataset(inputs[40:], targets[40:], IDS[40:])
    start = bi.Objective(nn.Linear(3, 3).double(), likelihood, bi.WeightDecay(0.06))
    trained = train_minibatches(start, stack_members([start.params]), train, MinibatchSchedule(30, 10, 0.05), [0])
    assert trained.accuracies.isnan().all()
    objective = bi.minimum_of(trained.at(0), train)
    influence = bi.Influence(objective, train, damping=0.0)
    refits = bi.Minimum().refit(objective, train, REMOVED)
    assert_same_effects(influence.on_loss(test).removal[:, :20], bi.loss_changes(refits, test)[0].T)
    with pytest.raises(TypeError, match=f"PredictiveEntropy depends on .* the likelihood '{name}' does not say"):
        influence.on_measurement(bi.PredictiveEntropy(), test)


@pytest.mark.parametrize("name", ["one logit", "several labels"])
def test_accuracy_is_the_share_of_examples_with_every_label_right(name):
    make, likelihood, targets, _ = CASES[name]
    train = bi.Dataset(INPUTS, targets, IDS)
    start = bi.Objective(make(), likelihood)
    trained = train_minibatches(start, stack_members([start.params]), train, MinibatchSchedule(200, 48, 0.05), [0])
    objective = trained.at(0)
    logits = objective.outputs(objective.params, INPUTS).reshape(48, -1)
    right = ((logits > 0) == targets.reshape(48, -1).bool()).all(1).double().mean()
    assert 0.3 < right < 1
    assert trained.accuracies[-1, 0] == pytest.approx(float(right), abs=0.05)
