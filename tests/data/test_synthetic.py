import pytest
import torch
from torch.distributions import MultivariateNormal

from bayes_influence.data.synthetic import gaussian_classes, linear_regression, logistic_classes

PROBLEMS = [gaussian_classes, logistic_classes, linear_regression]


@pytest.mark.parametrize("make", PROBLEMS)
def test_same_seed_same_problem(make):
    first, second, other = make(20, seed=3), make(20, seed=3), make(20, seed=4)
    assert torch.equal(first.dataset.inputs, second.dataset.inputs)
    assert torch.equal(first.dataset.targets, second.dataset.targets)
    assert not torch.equal(first.dataset.inputs, other.dataset.inputs)


@pytest.mark.parametrize("make", PROBLEMS)
def test_global_generator_is_left_alone(make):
    before = torch.get_rng_state()
    make(20)
    assert torch.equal(torch.get_rng_state(), before)


def test_gaussian_classes_follow_bayes_rule():
    problem = gaussian_classes(40, n_features=3, n_classes=4, separation=1.0, seed=0)
    inputs = problem.dataset.inputs
    eye = torch.eye(3, dtype=torch.float64)
    density = torch.stack([MultivariateNormal(centre, eye).log_prob(inputs) for centre in problem.weight], dim=1)
    torch.testing.assert_close(problem.probabilities(inputs), density.softmax(dim=1))
    assert torch.bincount(problem.dataset.targets).tolist() == [10, 10, 10, 10]


def test_logistic_classes_are_drawn_from_their_model():
    n = 40_000
    problem = logistic_classes(n, n_features=2, n_classes=3, seed=1)
    probabilities = problem.probabilities(problem.dataset.inputs)
    drawn = torch.nn.functional.one_hot(problem.dataset.targets, 3).double()
    score = (drawn - probabilities).T @ problem.dataset.inputs / n
    deviation = (probabilities * (1 - probabilities)).T @ problem.dataset.inputs.square() / n**2
    assert (score.abs() < 4 * deviation.sqrt()).all()


def test_least_squares_recovers_the_weights():
    problem = linear_regression(50, n_features=3, n_targets=2, noise=0.0, seed=2)
    design = torch.cat([problem.dataset.inputs, torch.ones(50, 1, dtype=torch.float64)], dim=1)
    fitted = torch.linalg.lstsq(design, problem.dataset.targets).solution
    torch.testing.assert_close(fitted, torch.cat([problem.weight, problem.bias[:, None]], dim=1).T)
    torch.testing.assert_close(problem.outputs(problem.dataset.inputs), problem.dataset.targets)


def test_noise_has_the_stated_size():
    problem = linear_regression(20_000, noise=0.3)
    residual = problem.dataset.targets - problem.outputs(problem.dataset.inputs)
    assert abs(residual.std() / 0.3 - 1) < 4 / (2 * 20_000) ** 0.5


def test_probabilities_of_a_regression():
    problem = linear_regression(5)
    with pytest.raises(TypeError, match="linear-regression is a regression problem"):
        problem.probabilities(problem.dataset.inputs)


def test_sizes_out_of_range():
    with pytest.raises(ValueError, match="n_features must be at least 1, got 0"):
        linear_regression(5, n_features=0)
    with pytest.raises(ValueError, match="noise is a standard deviation and must be at least 0, got -1"):
        linear_regression(5, noise=-1)
    with pytest.raises(ValueError, match="2 classes of 2 members each, got n=3 and n_classes=2"):
        gaussian_classes(3)
    with pytest.raises(ValueError, match="at least 2 classes, got n_classes=1"):
        logistic_classes(5, n_classes=1)
