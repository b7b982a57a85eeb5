"""A deep ensemble as one objective: losses, predictions, last layers and influence, against its members alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import bayes_influence as bi
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.models.ensemble import NetworkEnsemble
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.ensembles import EnsembleCrossEntropy
from bayes_influence.objectives.prediction import predict

DOUBLE = torch.float64


@pytest.fixture
def outputs():
    return torch.randn(6, 4, 3, dtype=DOUBLE)


@pytest.fixture
def targets():
    return torch.tensor([0, 1, 2, 0, 1, 2])


def test_losses_are_the_mean_of_the_members(outputs, targets):
    each = torch.stack([functional.cross_entropy(outputs[:, k], targets, reduction="none") for k in range(4)])
    losses = EnsembleCrossEntropy()(outputs, targets)
    torch.testing.assert_close(losses, each.mean(0))
    mean = torch.softmax(outputs, -1).mean(1)
    of_mean = -mean.gather(1, targets.unsqueeze(1)).log()[:, 0]
    assert (of_mean <= losses).all()
    torch.testing.assert_close(EnsembleCrossEntropy().class_logits(outputs).exp(), mean)
    hits = EnsembleCrossEntropy().hits(outputs, targets)
    assert torch.equal(hits, (mean.argmax(-1) == targets).to(hits))


def test_classes_that_no_member_has_are_refused(outputs, targets):
    EnsembleCrossEntropy().check(outputs, targets)
    with pytest.raises(ValueError, match=r"tests: .*3"):
        EnsembleCrossEntropy().check(outputs, targets + 1, "tests", torch.arange(6))


def test_predictions_are_the_mean_and_members_disagree():
    network = NetworkEnsemble([nn.Linear(4, 3).double() for _ in range(3)])
    x = torch.randn(5, 4, dtype=DOUBLE)
    found = predict(bi.Objective(network, EnsembleCrossEntropy()), x)
    each = torch.softmax(network(x), -1)
    torch.testing.assert_close(found.probabilities, each.mean(1))
    entropies = torch.special.entr(each).sum(-1).mean(1)
    torch.testing.assert_close(found.epistemic, torch.special.entr(each.mean(1)).sum(-1) - entropies)
    assert (found.epistemic > 0).all()


def test_influence_is_the_mean_of_the_members():
    train = logistic_classes(30, n_features=3, n_classes=3, seed=1).dataset
    test = logistic_classes(34, n_features=3, n_classes=3, seed=1).dataset.select(range(30, 34))
    alone = []
    for seed in (0, 1):
        start = MLP(3, 3, width=2, activation="tanh", seed=seed).double()
        one = bi.Objective(start, bi.CrossEntropy(), bi.WeightDecay(0.1), parameters="last-layer")
        alone.append(bi.minimum_of(one, train))
    network = NetworkEnsemble([one.network for one in alone])
    objective = bi.Objective(network, EnsembleCrossEntropy(), bi.WeightDecay(0.05), parameters="last-layer")
    expected = torch.stack([bi.Influence(one, train, damping=0.0).on_loss(test).removal for one in alone]).mean(0)
    influence = bi.Influence(objective, train, damping=0.0)
    torch.testing.assert_close(influence.on_loss(test).removal, expected)
    assert influence.problem.reduced.names == tuple(
        f"members.{index}.2.{name}" for index in (0, 1) for name in ("weight", "bias")
    )


def test_the_loss_of_the_mean_prediction_is_a_measurement():
    train = logistic_classes(30, n_features=3, n_classes=3, seed=1).dataset
    scheme = bi.SCHEMES["deep-ensemble"].with_options(size=2, weight_decay=0.05)
    make = lambda: MLP(3, 3, width=3, activation="tanh")  # noqa: E731
    (fits,) = bi.fit_schemes([scheme], make, train, [0], bi.Schedule(200, 0.05))
    test = train.select([0, 1, 2])

    def of_mean(outputs, targets):
        return functional.cross_entropy(EnsembleCrossEntropy().class_logits(outputs), targets, reduction="none")

    ids = bi.largest_losses(fits.at(0), train, 6)
    scores = bi.Influence(fits.at(0), train, damping=0.0).on_measurement(of_mean, test)
    refits = bi.Minimum().refit(fits, train, ids)
    network, changes = fits.at(0), []
    before = of_mean(network.outputs(network.params, test.inputs), test.targets)
    for column in range(len(ids)):
        refitted = {name: value[0, 1 + column] for name, value in refits.params.items()}
        changes.append(of_mean(network.outputs({**network.params, **refitted}, test.inputs), test.targets) - before)
    true, estimated = torch.stack(changes, dim=1), scores.removal[:, train.positions(ids)]
    assert torch.equal(true.sign(), estimated.sign())
    assert torch.corrcoef(torch.stack([true.flatten(), estimated.flatten()]))[0, 1] > 0.98


def test_outputs_of_one_network_are_refused():
    data = Dataset(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), torch.arange(5))
    objective = bi.Objective(nn.Linear(4, 3), EnsembleCrossEntropy())
    with pytest.raises(ValueError, match=r"needs outputs \(n, K, C\), the logits of K networks, got shape \(5, 3\)"):
        objective.check(data.batch())
