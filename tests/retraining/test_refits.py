import logging

import pytest
import torch
from torch import nn

from bayes_influence.influence.influence import Influence
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.predicted import Predicted
from bayes_influence.retraining.refits import ControlDrift, control_drift, loss_changes, losses_after, outputs_after
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from tests.fitted import tanh_network


def test_losses_are_those_of_every_single_refit(network, train, test, removed):
    refits = Minimum().refit(network, train, removed)
    losses, outputs = losses_after(refits, test), outputs_after(refits, test)
    for seed in range(2):
        for index in range(4):
            there = refits.at(seed, index)
            torch.testing.assert_close(losses[seed, index], there.losses(there.params, test.batch()))
            torch.testing.assert_close(outputs[seed, index], there.network(test.inputs))


class Unbatched(torch.autograd.Function):
    """Twice its argument, without a batching rule."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope


class Doubled(nn.Linear):
    def forward(self, x):
        return Unbatched.apply(super().forward(x))


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_networks_that_torch_cannot_batch_are_asked_one_by_one(train, test, removed, parameters):
    built = [nn.Sequential(nn.Linear(3, 3), nn.Tanh(), Doubled(3, 3)).double() for _ in range(2)]
    networks = Members.of([Objective(one, CrossEntropy(), WeightDecay(0.1), parameters=parameters) for one in built])
    refits = Predicted(lambda objective: Influence(objective, train, curvature="ggn")).refit(networks, train, removed)
    losses, outputs = losses_after(refits, test), outputs_after(refits, test)
    for seed in range(2):
        for index in range(4):
            there = refits.at(seed, index)
            torch.testing.assert_close(losses[seed, index], there.losses(there.params, test.batch()))
            torch.testing.assert_close(outputs[seed, index], there.network(test.inputs))


def test_what_no_refit_moves_is_every_networks_own(train, test, removed):
    """The first layer is refitted, on the last layer that each seed has."""
    scheme = SCHEMES["weight-decay"]
    (fits,) = fit_schemes([scheme], tanh_network, train, [0, 1], Schedule(20), parameters=["0.weight"], tolerance=None)
    refits = Warm(Schedule(2)).refit(fits, train, removed)
    assert set(refits.params) == {"0.weight"}
    losses = losses_after(refits, test)
    for seed in range(2):
        for index in range(4):
            there = refits.at(seed, index)
            torch.testing.assert_close(losses[seed, index], there.losses(there.params, test.batch()))


def test_a_last_layer_behind_statistics_of_its_own_training_is_met_through_them(train, test, removed):
    """All parameters are the last layer's, and what it receives is another thing in every refit."""
    schedule = Schedule(3)

    def normalised():
        return nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 3))

    (fits,) = fit_schemes([SCHEMES["weight-decay"]], normalised, train, [0, 1], schedule, tolerance=None)
    refits = FromScratch(SCHEMES["weight-decay"], normalised, schedule).refit(fits, train, removed)
    losses = losses_after(refits, test)
    for seed in range(2):
        for index in range(4):
            there = refits.at(seed, index)
            torch.testing.assert_close(losses[seed, index], there.losses(there.params, test.batch()))
            assert index == 0 or (losses[seed, index] != losses[seed, 0]).all()


def test_changes_are_counted_from_the_control(unfinished, train, test, removed):
    refits = Warm(Schedule(5, 0.01)).refit(unfinished, train, removed)
    losses = losses_after(refits, test)
    torch.testing.assert_close(loss_changes(refits, test), losses[:, 1:] - losses[:, 0].unsqueeze(1))


def test_bayesian_outputs_keep_their_variance(train, test, removed):
    (fits,) = fit_schemes([SCHEMES["bnn"]], tanh_network, train, [0, 1], Schedule(20), tolerance=None)
    outputs = outputs_after(Warm(Schedule(2)).refit(fits, train, removed), test)
    assert isinstance(outputs, Moments)
    assert outputs.expectation.shape == outputs.variance.shape == (2, 4, 6, 3)


def test_a_polished_fit_does_not_drift(regression, train, test, removed, caplog):
    with caplog.at_level(logging.WARNING):
        drift = control_drift(Minimum().refit(regression, train, removed), test)
    assert float(drift.relative.max()) < 1e-6
    assert caplog.text == ""


def test_refits_are_shown_in_a_line(regression, train, removed):
    members, count = removed.shape
    shown = repr(Minimum().refit(regression, train, removed))
    total = members * (count + 1)
    start = (
        f"Refits({members} x {count} removals and a control each, {total} of {total} converged, worst gradient norm "
    )
    assert shown.startswith(start)


def test_drift_as_far_as_a_typical_effect_is_flagged():
    assert ControlDrift(torch.zeros(1, 3), torch.tensor([[0.99, 1.0, 2.0]])).exceeds_effects.tolist() == [
        [False, True, True]
    ]


def test_drift_is_counted_from_the_fit_in_units_of_the_typical_effect(unfinished, train, test, removed, caplog):
    refits = Warm(Schedule(30, 0.01)).refit(unfinished, train, removed)
    with caplog.at_level(logging.WARNING):
        found = control_drift(refits, test)
    losses = losses_after(refits, test)
    for seed in range(2):
        objective = unfinished.at(seed)
        expected = losses[seed, 0] - objective.losses(objective.params, test.batch())
        torch.testing.assert_close(found.drift[seed], expected)
        typical = (losses[seed, 1:] - losses[seed, 0]).abs().median(dim=0).values
        torch.testing.assert_close(found.relative[seed], expected.abs() / typical)
    assert torch.equal(found.exceeds_effects, found.relative >= 1)
    assert "retraining with nothing removed moves the loss by up to" in caplog.text
