import pytest
import scipy.optimize
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.synthetic import gaussian_classes
from bayes_influence.objectives.derivatives import dense_hessian, gradient
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training import newton, stacked
from bayes_influence.training.newton import minimise_newton
from bayes_influence.training.stacked import StackedProblem


@pytest.fixture
def data():
    return gaussian_classes(n=60, n_features=4, n_classes=3, seed=0).dataset


@pytest.fixture
def regression():
    return Objective(nn.Linear(4, 3).double(), CrossEntropy(), WeightDecay(0.01))


def _stack(objective, members):
    return {name: value.expand(members, *value.shape).clone() for name, value in objective.params.items()}


def _minimum(objective, data, weights):
    """By scipy, from dense derivatives of one member."""
    layout = objective.layout

    def at(theta):
        return objective.at(layout.unflatten(torch.as_tensor(theta)))

    return scipy.optimize.minimize(
        lambda theta: float(at(theta).flat.value(torch.as_tensor(theta), data.batch(), weights)),
        layout.flatten(objective.params).numpy(),
        jac=lambda theta: gradient(at(theta), data.batch(), weights).numpy(),
        hess=lambda theta: dense_hessian(at(theta), data.batch(), weights).numpy(),
        method="trust-exact",
        options={"gtol": 1e-12},
    ).x


def test_convex_members_reach_the_minimum_that_scipy_finds(regression, data):
    weights = torch.ones(5, 60).double()
    weights[torch.arange(5), torch.arange(5)] = 0.0
    result = minimise_newton(StackedProblem(regression, _stack(regression, 5), data.batch(), weights))
    assert result.converged.all()
    assert float(result.gradient_norms.max()) <= 1e-10
    for index in range(5):
        found = regression.layout.flatten(member(result.free, index))
        assert torch.allclose(found, torch.as_tensor(_minimum(regression, data, weights[index])), atol=1e-8)


def test_the_problem_stays_where_it_starts(regression, data):
    problem = StackedProblem(regression, _stack(regression, 2), data.batch(), torch.ones(2, 60).double())
    start = problem.start.clone()
    assert minimise_newton(problem).converged.all()
    torch.testing.assert_close(problem.start, start, rtol=0, atol=0)


def test_a_network_with_smooth_activations_is_polished_in_all_parameters(data):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    objective = Objective(network, CrossEntropy(), WeightDecay(0.01))
    result = minimise_newton(StackedProblem(objective, _stack(objective, 2), data.batch()), max_iterations=300)
    assert result.converged.all()
    there = objective.at(member(result.free, 0))
    assert float(gradient(there, data.batch()).norm()) <= 1e-10
    # A minimum, not a saddle point.
    assert float(torch.linalg.eigvalsh(dense_hessian(there, data.batch()))[0]) > -1e-9


def test_only_the_selected_parameters_move(data):
    network = nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 3)).double()
    objective = Objective(network, CrossEntropy(), WeightDecay(0.01), parameters="last-layer")
    result = minimise_newton(StackedProblem(objective, _stack(objective, 2), data.batch()))
    assert result.converged.all()
    assert set(result.free) == {"2.weight", "2.bias"}
    assert not torch.allclose(result.free["2.weight"][0], network[2].weight)


def test_hessians_taken_in_turns_are_the_same(regression, data, monkeypatch):
    problem = StackedProblem(regression, _stack(regression, 4), data.batch())
    members = torch.arange(4)
    whole = problem.hessians(problem.start, members)
    monkeypatch.setattr(problem, "linear", None)
    monkeypatch.setattr(stacked, "HESSIAN_ENTRIES", 1)
    assert torch.allclose(problem.hessians(problem.start, members), whole, atol=1e-14)
    assert torch.allclose(whole[0], dense_hessian(regression, data.batch()), atol=1e-14)


def test_single_examples_make_up_the_hessian(regression, data):
    problem = StackedProblem(regression, _stack(regression, 2), data.batch())
    shares = problem.example_hessians(1, torch.arange(60))
    expected = dense_hessian(regression, data.batch()) - 0.01 * torch.eye(15).double()
    assert torch.allclose(shares.mean(0), expected, atol=1e-14)


def test_a_minimum_at_infinity_is_marked_not_hidden():
    """Separable classes without a regulariser: the loss falls for ever."""
    inputs = torch.tensor([[-1.0], [1.0]]).double().repeat(5, 1)
    data = gaussian_classes(n=10, n_features=1, n_classes=2, seed=0).dataset
    data = type(data)(inputs, torch.arange(10) % 2, data.ids)
    objective = Objective(nn.Linear(1, 2).double(), CrossEntropy())
    result = minimise_newton(StackedProblem(objective, _stack(objective, 1), data.batch()), max_iterations=5)
    assert not result.converged.any()
    assert result.iterations == 5
    assert float(result.gradient_norms[0]) > 1e-10


def test_a_member_that_no_step_helps_is_given_up_early():
    """Above an output of 0, where it starts, the loss jumps by 1: the gradient points over the edge."""

    def jumping(outputs, targets):
        return (0.5 * (outputs - 1).square() + (outputs > 0)).squeeze(1)

    network = nn.Linear(2, 1, bias=False).double()
    nn.init.zeros_(network.weight)
    data = Dataset(torch.ones(3, 2).double(), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    objective = Objective(network, jumping)
    result = minimise_newton(StackedProblem(objective, _stack(objective, 2), data.batch()))
    assert result.iterations == newton.STALL
    assert not result.converged.any()
    assert result.values.tolist() == [0.5, 0.5]
    assert result.gradient_norms.tolist() == pytest.approx([2**0.5] * 2)


def test_a_member_that_walks_away_without_end_is_given_up_and_others_are_not(endless):
    problem, slopes = endless
    result = minimise_newton(problem, tolerance=1e-8)
    assert result.converged.tolist() == [True, False, False]
    assert float(result.free["weight"][0].abs()) <= 1e-8
    # Where it stops it has just become that steep: the next step would be some three times as steep.
    growth = result.gradient_norms[1:] / slopes[1:].abs()
    assert ((growth > newton.STEEPER) & (growth < 30 * newton.STEEPER)).all()
    assert result.iterations < 50


class Told(StackedProblem):
    """A problem of one parameter whose values, slopes and curvatures are told in advance; counts its Hessians."""

    def __init__(self, values, slopes, curvature=1.0):
        self.start = torch.zeros(1, 1, dtype=torch.float64)
        self.told = iter(zip(values, slopes, strict=True))
        self.curvature, self.hessians_taken = curvature, 0

    def gradients(self, theta, members):
        value, slope = next(self.told)
        return torch.tensor([[slope]], dtype=torch.float64), torch.tensor([value], dtype=torch.float64)

    def hessians(self, theta, members):
        self.hessians_taken += 1
        return torch.full((1, 1, 1), self.curvature, dtype=torch.float64)


def descent_of(values, slopes, **options):
    problem = Told(values, slopes)
    descent = newton._Descent(problem, **{"hessians": None} | options)
    return problem, descent


@pytest.mark.parametrize(
    ("value", "slope", "taken"),
    [
        (3 - 5e-13, 2.0, True),
        (3 - 3e-13, 2.0, False),
        (3 - 3e-13, 0.9, True),
        (3 + 3e-13, 0.9, True),
        (3 + 5e-13, 0.9, False),
        (2.0, float("inf"), False),
    ],
)
def test_a_step_is_taken_where_it_lowers_the_value_or_within_rounding_the_gradient(value, slope, taken):
    """Rounding is 1e-13 (1 + |J|), here 4e-13."""
    _, descent = descent_of([3.0, value], [1.0, slope])
    descent.step(torch.arange(1))
    assert (float(descent.value) == value) == taken
    assert descent.theta.tolist() == [[-1.0 if taken else 0.0]]


def test_a_hessian_is_kept_as_long_as_the_gradient_shrinks_tenfold():
    problem, descent = descent_of([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], [1.0, 0.09, 0.008, 0.001, 0.0005, 0.00004])
    taken = []
    for _ in range(5):
        descent.step(torch.arange(1))
        taken.append(problem.hessians_taken)
    assert taken == [1, 1, 1, 2, 3]


def test_a_hessian_of_an_earlier_place_that_fails_is_renewed_before_damping_is_raised():
    problem, descent = descent_of([5.0, 4.0, 9.0, 3.0], [1.0, 0.05, 1.0, 0.01])
    seen = []
    for _ in range(3):
        descent.step(torch.arange(1))
        seen.append((problem.hessians_taken, float(descent.damping), float(descent.value)))
    assert seen == [(1, 0.0, 4.0), (1, 0.0, 4.0), (2, 0.0, 3.0)]


def test_damping_is_raised_where_a_new_hessians_step_fails_and_lowered_where_one_succeeds():
    """A kept Hessian that fails is renewed first."""
    problem, descent = descent_of([1.0, 2.0, 2.0, 2.0, 0.5, 0.4], [1.0] * 6, hessians=torch.ones(1, 1, 1).double())
    seen = []
    for _ in range(5):
        descent.step(torch.arange(1))
        seen.append((problem.hessians_taken, float(descent.damping)))
    expected = [(0, 0.0), (1, 1e-6), (1, 1e-5), (1, 1e-6), (2, 1e-7)]
    assert [count for count, _ in seen] == [count for count, _ in expected]
    assert [damping for _, damping in seen] == pytest.approx([damping for _, damping in expected])


def test_damping_goes_off_below_its_smallest_and_gives_up_above_its_largest():
    _, descent = descent_of([1.0, 0.5, 0.4], [1.0] * 3)
    descent.damping[:] = 10.1 * newton.SMALLEST_DAMPING
    descent.step(torch.arange(1))
    assert float(descent.damping) == pytest.approx(1.01 * newton.SMALLEST_DAMPING)
    descent.step(torch.arange(1))
    assert float(descent.damping) == 0
    _, descent = descent_of([1.0, 2.0, 2.0], [1.0] * 3)
    descent.damping[:] = 0.02 * newton.LARGEST_DAMPING
    for given_up in (False, True):
        descent.step(torch.arange(1))
        assert bool(descent.given_up) == given_up


@pytest.mark.parametrize(("fall", "norm", "trials"), [(1.9e-6, 0.91, 1), (2.1e-6, 1.0, 0), (0.0, 0.89, 0)])
def test_progress_is_a_tenth_of_the_gradient_or_a_millionth_of_the_value(fall, norm, trials):
    """A millionth of 1 + |J|, here 2e-6."""
    _, descent = descent_of([1.0], [1.0])
    descent.value, descent.norm = descent.value - fall, descent.norm * norm
    descent._give_up_where_stalled(torch.arange(1))
    assert descent.trials.tolist() == [trials]
    marked = [float(descent.mark_value), float(descent.mark_norm)]
    assert marked == pytest.approx([1.0, 1.0] if trials else [1 - fall, norm], abs=1e-9)


def test_a_matrix_that_is_not_definite_is_damped_until_it_is():
    problem = Told([1.0, 0.5], [1.0, 1.0], curvature=-1.0)
    descent = newton._Descent(problem, None)
    descent.step(torch.arange(1))
    # Damping is relative to |H| = 1 and grows tenfold from 1e-6: 10 is the first above 1.
    assert descent.theta.tolist() == [[pytest.approx(-1 / 9)]]


@pytest.mark.parametrize(
    ("values", "slopes", "options", "factored"),
    [
        ([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], [1.0, 0.09, 0.008, 0.001, 0.0005, 0.00004], {}, [1, 1, 1, 2, 3]),
        ([1.0, 2.0, 2.0, 2.0, 0.5, 0.4], [1.0] * 6, {"hessians": torch.ones(1, 1, 1).double()}, [1, 2, 3, 4, 5]),
    ],
)
def test_a_factor_is_kept_as_long_as_its_hessian_and_damping(values, slopes, options, factored, monkeypatch):
    calls, cholesky = [], torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrices: (calls.append(1), cholesky(matrices))[1])
    _, descent = descent_of(values, slopes, **options)
    seen = []
    for _ in range(5):
        descent.step(torch.arange(1))
        seen.append(len(calls))
    assert seen == factored


def test_members_that_end_at_different_steps_step_by_their_own_factors(regression, data):
    weights = torch.ones(3, 60).double()
    weights[1, :20], weights[2, :40] = 0.0, 5.0
    alone = [
        minimise_newton(StackedProblem(regression, _stack(regression, 1), data.batch(), one))
        for one in weights.split(1)
    ]
    start = {name: value.clone() for name, value in _stack(regression, 3).items()}
    for name in start:
        start[name][0] = alone[0].free[name][0]
    together = minimise_newton(StackedProblem(regression, start, data.batch(), weights))
    assert together.converged.all()
    for name in start:
        assert torch.allclose(together.free[name], torch.cat([one.free[name] for one in alone]), atol=1e-9)
