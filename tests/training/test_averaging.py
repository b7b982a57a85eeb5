import pytest
import torch

from bayes_influence.objectives.parameters import Flattening
from bayes_influence.training.averaging import SWAG, IterateAverage, SwagPosterior
from bayes_influence.training.schedules import SWA

ITERATES = torch.randn(7, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
LAYOUT = Flattening(("a", "b"), (torch.Size((2, 2)), torch.Size((1,))))


def collected(averaging):
    average = IterateAverage(ITERATES[0], averaging.rank)
    for iterate in ITERATES:
        average.update(iterate)
    return average


def test_the_average_is_the_mean_of_the_iterates():
    torch.testing.assert_close(collected(SWA()).mean, ITERATES.mean(0))


def test_swag_collects_second_moments_and_the_last_deviations_from_the_running_mean():
    posterior = collected(SWAG(rank=3)).posterior(1, LAYOUT)
    own = ITERATES[:, 1]
    torch.testing.assert_close(posterior.mean, own.mean(0))
    torch.testing.assert_close(posterior.diagonal, own.var(0, correction=0))
    running = torch.stack([own[: step + 1].mean(0) for step in range(7)])
    torch.testing.assert_close(posterior.deviations, (own - running)[-3:])


def test_swag_samples_have_its_covariance():
    posterior = collected(SWAG(rank=3)).posterior(0, LAYOUT)
    deviations = posterior.deviations
    expected = 0.5 * (torch.diag(posterior.diagonal) + deviations.T @ deviations / 2)
    torch.testing.assert_close(posterior.covariance(), expected)
    torch.testing.assert_close(posterior.variance, expected.diagonal())
    jacobians = torch.randn(4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(posterior.output_covariance(jacobians), jacobians @ expected @ jacobians.mT)
    draws = LAYOUT.flatten(posterior.sample(200_000, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(draws.mean(0), posterior.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(torch.cov(draws.T), expected, atol=0.02, rtol=0)


def test_samples_are_shaped_like_the_parameters_and_follow_the_generator():
    posterior = SwagPosterior(LAYOUT, torch.zeros(5), torch.ones(5), torch.ones(2, 5))
    one, other = (posterior.sample(4, torch.Generator().manual_seed(1)) for _ in range(2))
    assert {name: tuple(value.shape) for name, value in one.items()} == {"a": (4, 2, 2), "b": (4, 1)}
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_collected_can_be_stored_and_continued():
    half = IterateAverage(ITERATES[0], 3)
    for iterate in ITERATES[:4]:
        half.update(iterate)
    resumed = IterateAverage(ITERATES[0], 3)
    resumed.restore(half.tensors())
    for iterate in ITERATES[4:]:
        resumed.update(iterate)
    whole = collected(SWAG(rank=3)).tensors()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.tensors().items())


def test_too_few_iterates_and_too_small_a_rank_are_refused():
    average = IterateAverage(ITERATES[0], SWAG().rank)
    average.update(ITERATES[0])
    with pytest.raises(ValueError, match="at least 2 averaged iterates, got 1"):
        average.posterior(0, LAYOUT)
    assert SWAG(rank=2).rank == 2
    with pytest.raises(ValueError, match="rank of at least 2, got 1"):
        SWAG(rank=1)


def test_small_deviations_from_large_means_are_not_lost_in_single_precision():
    iterates = 1 + 3e-4 * torch.randn(20, 1, 50, generator=torch.Generator().manual_seed(0))
    average = IterateAverage(iterates[0], 3)
    for iterate in iterates:
        average.update(iterate)
    found = average.posterior(0, Flattening(("a",), (torch.Size((50,)),))).diagonal
    torch.testing.assert_close(found.double(), iterates[:, 0].double().var(0, correction=0), rtol=1e-3, atol=0)
