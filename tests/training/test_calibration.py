import pytest
import torch

from bayes_influence.data.synthetic import gaussian_classes
from bayes_influence.models.initialisation import initial_state
from bayes_influence.models.mlp import MLP
from bayes_influence.moments import variance_factors
from bayes_influence.moments.layers import FACTOR
from bayes_influence.training import calibration
from bayes_influence.training.calibration import refresh_due, refreshed_factors
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.schemes import Variational

DATA = gaussian_classes(40, n_features=2).dataset
SCHEME = Variational("bnn", structure="calibrated", method="exact")
LAST = f"4.{FACTOR}"


def network():
    return MLP(2, 2, width=4, depth=2)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(calibration, "variance_factors", lambda *args: variance_factors(*args, n_samples=8))


def problem():
    params, buffers = initial_state(lambda: SCHEME.prepare(network()), [0, 1], dtype=torch.float64)
    return SCHEME.objective(SCHEME.prepare(network()), len(DATA)).to(torch.float64), params, buffers


def train(schedule, **options):
    objective, params, buffers = problem()
    return train_minibatches(objective, params, DATA, schedule, [0, 1], buffers=buffers, **options)


def found(trained, index):
    one = trained.at(index)
    order = torch.randperm(len(DATA), generator=torch.Generator().manual_seed(0))
    return variance_factors(one.network, DATA.select(order).inputs, n_samples=8)


def test_factors_are_refreshed_some_steps_apart_and_at_the_end():
    assert [epoch for epoch in range(1, 8) if refresh_due(epoch, 7, 20)] == [3, 5, 7]
    assert [epoch for epoch in range(1, 121) if refresh_due(epoch, 120, 1)] == [50, 100, 120]
    assert all(refresh_due(epoch, 4, 63) for epoch in range(1, 5))


def test_training_ends_with_the_factors_of_where_it_ends(few_draws):
    trained = train(MinibatchSchedule(3, 20, 0.02))
    for index in range(2):
        factors = found(trained, index)
        assert set(factors) == {f"{path}.{FACTOR}" for path in (0, 2, 4)}
        for name, value in factors.items():
            torch.testing.assert_close(trained.at(index).buffers[name], value)
    assert not torch.equal(trained.at(0).buffers[LAST], torch.ones(2, dtype=torch.float64))
    assert not torch.equal(trained.at(0).buffers[LAST], trained.at(1).buffers[LAST])
    assert repr(trained.at(0)).endswith("its variance factors held)")


def test_of_averaged_iterates_they_are_those_of_the_average(few_draws):
    trained = train(MinibatchSchedule(4, 20, 0.05), averaging=SWA(start=0.25))
    torch.testing.assert_close(trained.at(1).buffers[LAST], found(trained, 1)[LAST])


def test_a_training_that_was_stopped_ends_with_the_same_bits(few_draws):
    states = []
    schedule = MinibatchSchedule(4, 10, 0.02)
    whole = train(schedule, on_epoch=states.append)
    continued = train(schedule, state=states[1])
    for name, value in whole.state.items():
        assert torch.equal(value, continued.state[name])


def test_between_refreshes_the_objective_is_the_one_that_is_evaluated(few_draws):
    objective, params, buffers = problem()
    trained = train(MinibatchSchedule(1, 40, 0.02))
    refreshed = refreshed_factors(objective, params, buffers, DATA, None)
    first = objective.at({n: v[0] for n, v in params.items()}, {n: v[0] for n, v in refreshed.items()})
    torch.testing.assert_close(trained.values[0, 0], first.value(first.params, DATA.batch()))


def test_an_example_without_weight_takes_no_part(few_draws, monkeypatch):
    objective, params, buffers = problem()
    weights = torch.ones(2, len(DATA), dtype=torch.float64)
    order = torch.randperm(len(DATA), generator=torch.Generator().manual_seed(0))
    weights[1, order[2]] = 0
    monkeypatch.setattr(calibration, "FACTOR_EXAMPLES", 5)
    both = refreshed_factors(objective, params, buffers, DATA, weights)
    for index, rows in enumerate((order[:5], order[[0, 1, 3, 4, 5]])):
        one = objective.at({name: value[index] for name, value in params.items()})
        expected = variance_factors(one.network, DATA.select(rows).inputs, n_samples=8)
        torch.testing.assert_close(both[LAST][index], expected[LAST])


def test_fitted_schemes_hold_their_factors_at_the_minimum(few_draws):
    (fits,) = fit_schemes([SCHEME], network, DATA, [0], Schedule(60, 0.05))
    assert fits.polished.all()
    assert fits.gradient_norms.max() < 1e-10
    factor = fits.at(0).buffers[LAST]
    assert not torch.equal(factor, torch.ones_like(factor))
    assert "variance factors held" in repr(fits)
