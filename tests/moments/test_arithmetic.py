import pytest
import torch

from bayes_influence.moments import Approximation, Moments, UnsupportedOperationError

DOUBLE = torch.float64
N = 200_000


@pytest.fixture
def pair():
    shape = (2, 3)
    return tuple(Moments(torch.randn(shape, dtype=DOUBLE), torch.rand(shape, dtype=DOUBLE)) for _ in range(2))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: x * y,
        lambda x, y: torch.add(x, y, alpha=-2.5),
        lambda x, y: torch.sub(x, y, alpha=0.5),
        lambda x, y: x * x + 0 * y,
        lambda x, y: x + x,
        lambda x, y: x - x + y,
        lambda x, y: (3 - x) / 2 + y * 0.5,
        lambda x, y: -x + 1 - y,
        lambda x, y: x @ torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 2.0]], dtype=DOUBLE),
    ],
)
def test_moments_are_those_of_samples(pair, operation, draw, assert_match):
    x, y = pair
    assert_match(operation(x, y), operation(draw(x, N), draw(y, N)))


def test_constants_from_both_sides(pair):
    x = pair[0]
    tensor = torch.randn(4, 2, 3, dtype=DOUBLE)
    for result, mean, variance in [
        (tensor + x, tensor + x.expectation, x.variance),
        (x - tensor, x.expectation - tensor, x.variance),
        (tensor - x, tensor - x.expectation, x.variance),
        (tensor * x, tensor * x.expectation, tensor.square() * x.variance),
        (2 * x, 2 * x.expectation, 4 * x.variance),
        (x / tensor, x.expectation / tensor, x.variance / tensor.square()),
        (x / 4, x.expectation / 4, x.variance / 16),
    ]:
        assert torch.equal(result.expectation, mean)
        assert torch.allclose(result.variance, variance.expand(mean.shape))


def test_broadcasting_keeps_mean_and_variance_in_one_shape(pair):
    x, y = pair
    assert (x[:, :1] + y).variance.shape == (2, 3)
    assert (x[:1] * torch.ones(5, 1, 1, dtype=DOUBLE)).variance.shape == (5, 1, 3)


def test_a_number_minus_moments_has_the_right_sign(pair):
    assert torch.equal((1 - pair[0]).expectation, 1 - pair[0].expectation)


def test_gradients_reach_every_operand():
    x, y = (Moments(torch.randn(3, requires_grad=True), torch.rand(3, requires_grad=True)) for _ in range(2))
    product = x * y
    product.variance.sum().backward()
    assert torch.allclose(x.variance.grad, (y.expectation.square() + y.variance).detach())
    assert torch.allclose(x.expectation.grad, (2 * x.expectation * y.variance).detach())


def test_random_divisors_are_refused(pair):
    x, y = pair
    for operation in (lambda: x / y, lambda: 1 / y, lambda: torch.ones(3) / y):
        with pytest.raises(UnsupportedOperationError, match="Moments as divisor has no moments"):
            operation()


def test_the_chosen_approximation_wins_over_the_default(pair):
    x, y = pair
    chosen = Moments(x.expectation, x.variance, Approximation("exact"))
    assert (y + chosen).approximation == (chosen * y).approximation == Approximation("exact")
    other = Moments(x.expectation, x.variance, Approximation("gauss-hermite"))
    with pytest.raises(ValueError, match="moments with different approximations were combined"):
        chosen + other


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_integer_constants_do_not_overflow(dtype):
    x, constant = Moments(torch.ones(3), torch.full((3,), 0.5)), torch.full((3,), 200, dtype=dtype)
    torch.testing.assert_close((x * constant).variance, torch.full((3,), 0.5 * 200**2))
    torch.testing.assert_close((x / constant).variance, torch.full((3,), 0.5 / 200**2))


def test_what_took_the_shape_of_a_constant_can_be_viewed():
    x = Moments(torch.ones(3), torch.arange(3.0))
    for result in (x + torch.ones(2, 3), x * torch.ones(2, 3)):
        assert torch.equal(result.view(6).variance, torch.arange(3.0).repeat(2))
