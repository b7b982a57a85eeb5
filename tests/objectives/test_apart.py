from dataclasses import replace

import pytest
import torch

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.models.ensemble import NetworkEnsemble
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.apart import Apart
from bayes_influence.objectives.ensembles import EnsembleCrossEntropy
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay

TRAIN = logistic_classes(30, n_features=3, n_classes=3, seed=1).dataset


def mlp(seed):
    return MLP(3, 3, width=2, activation="tanh", seed=seed).double()


def ensemble(*seeds, network=NetworkEnsemble, regulariser=None, **options):
    members = network([mlp(seed) for seed in seeds])
    decay = WeightDecay(0.05) if regulariser is None else regulariser
    return Objective(members, EnsembleCrossEntropy(), decay, 0.7, **options)


@pytest.mark.parametrize("regulariser", [WeightDecay(0.05), NoRegulariser()])
def test_the_objective_is_the_mean_of_the_networks(regulariser):
    ensembles = Members.of([ensemble(0, 1, 2, regulariser=regulariser), ensemble(3, 4, 5, regulariser=regulariser)])
    apart = Apart.of(ensembles, TRAIN)
    batch = TRAIN.batch()
    assert (len(apart.members), apart.size) == (6, 3)
    assert apart.members.labels[:4] == (
        *("network 0, network 0", "network 0, network 1", "network 0, network 2"),
        "network 1, network 0",
    )
    values, slopes = [], []
    for one in apart.members:
        flat = one.layout.flatten(one.params).requires_grad_()
        value = one.value(one.layout.unflatten(flat), batch)
        values.append(value.detach())
        slopes.append(torch.autograd.grad(value, flat)[0].norm())
    for index, one in enumerate(ensembles):
        flat = one.layout.flatten(one.params).requires_grad_()
        value = one.value(one.layout.unflatten(flat), batch)
        torch.testing.assert_close(apart.each(torch.stack(values)).mean(1)[index], value.detach())
        (slope,) = torch.autograd.grad(value, flat)
        torch.testing.assert_close(apart.norms(torch.stack(slopes))[index], slope.norm())
    joined = apart.joined(apart.members.params)
    assert joined.keys() == ensembles.params.keys()
    for name, value in ensembles.params.items():
        assert torch.equal(joined[name], value)


def test_the_same_is_taken_of_every_network():
    apart = Apart.of(Members.of(ensemble(0, 1, parameters="last-layer")), TRAIN)
    assert apart.members.objective.names == ("2.weight", "2.bias")
    named = ensemble(0, 1, parameters=["members.0.2.weight", "members.1.2.bias"])
    assert Apart.of(Members.of(named), TRAIN) is None


class Mixed(NetworkEnsemble):
    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs + 0.1 * outputs.flip(1)


def test_what_is_no_mean_of_networks_stays_together():
    assert Apart.of(Members.of(Objective(mlp(0), CrossEntropy())), TRAIN) is None
    assert Apart.of(Members.of(ensemble(0, 1, network=Mixed)), TRAIN) is None
    ridge = ensemble(0, 1, regulariser=lambda params: sum(value.abs().sum() for value in params.values()))
    assert Apart.of(Members.of(ridge), TRAIN) is None
    own_losses = replace(ensemble(0, 1), likelihood=lambda outputs, targets: outputs[:, 0, 0])
    assert Apart.of(Members.of(own_losses), TRAIN) is None
    shared = mlp(0)
    other = mlp(1)
    other[0] = shared[0]
    assert Apart.of(Members.of(Objective(NetworkEnsemble([shared, other]), EnsembleCrossEntropy())), TRAIN) is None
