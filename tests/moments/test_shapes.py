import pytest
import torch
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments

CASES = [
    lambda x: x.reshape(3, 8),
    lambda x: x.view(-1),
    lambda x: torch.flatten(x, 1),
    lambda x: torch.nn.Flatten()(x),
    lambda x: torch.nn.Unflatten(1, (3, 1))(x),
    lambda x: x.unsqueeze(0).squeeze(0),
    lambda x: x.transpose(0, 1),
    lambda x: torch.permute(x, (2, 0, 1)),
    lambda x: x.movedim(0, -1),
    lambda x: x[:, 1],
    lambda x: x[..., None],
    lambda x: x[:1].expand(5, 3, 4),
    lambda x: torch.flip(x, (0,)),
    lambda x: x.chunk(2, -1)[1],
    lambda x: torch.split(x, 1)[0],
    lambda x: x.unbind(1)[2],
    lambda x: x.index_select(1, torch.tensor([2, 0])),
    lambda x: x.to(torch.float64),
    lambda x: x.double().float(),
    lambda x: x.detach().clone().contiguous(),
    lambda x: torch.cat([x, x], 1),
    lambda x: torch.stack([x, x]),
    lambda x: functional.pad(x, (1, 1), mode="circular"),
    lambda x: torch.where(torch.arange(4) > 1, x, x[:1]),
]


@pytest.mark.parametrize("operation", CASES)
def test_mean_and_variance_move_together(operation):
    x = Moments(torch.randn(2, 3, 4), torch.rand(2, 3, 4), Approximation("exact"))
    result = operation(x)
    assert torch.equal(result.expectation, operation(x.expectation))
    assert torch.equal(result.variance, operation(x.variance))
    assert result.approximation == x.approximation


def test_what_is_fixed_has_no_variance():
    x, fixed = Moments(torch.randn(2, 3), torch.rand(2, 3)), torch.randn(2, 3)
    joined = torch.cat([fixed, x], 1)
    assert torch.equal(joined.expectation, torch.cat([fixed, x.expectation], 1))
    assert torch.equal(joined.variance, torch.cat([torch.zeros(2, 3), x.variance], 1))
    padded = functional.pad(x, (1, 0), value=7.0)
    assert torch.equal(padded.expectation[:, 0], torch.full((2,), 7.0))
    assert torch.equal(padded.variance[:, 0], torch.zeros(2))
    chosen = torch.where(torch.tensor([True, False, True]), x, 0.0)
    assert torch.equal(chosen.expectation[:, 1], torch.zeros(2))
    assert torch.equal(chosen.variance, x.variance * torch.tensor([1.0, 0.0, 1.0]))


def test_a_gradient_passes_through():
    variance = torch.rand(2, 3, requires_grad=True)
    Moments(torch.zeros(2, 3), variance).flatten().variance[4].backward()
    assert variance.grad.flatten().tolist() == [0, 0, 0, 0, 1, 0]


def test_joining_is_along_the_first_axis_unless_said_otherwise():
    x = Moments(torch.randn(2, 3), torch.rand(2, 3))
    assert torch.equal(torch.cat([x, x]).variance, torch.cat([x.variance, x.variance]))
    assert torch.stack([x, x]).shape == (2, 2, 3)


def test_padding_with_copies_copies_variances_and_with_a_constant_has_none():
    x = Moments(torch.randn(1, 2, 3), 1 + torch.rand(1, 2, 3))
    assert torch.equal(functional.pad(x, (1, 1), "replicate").variance[..., 0], x.variance[..., 0])
    padded = functional.pad(x, (1, 1), value=5.0)
    assert torch.equal(padded.variance[..., 0], torch.zeros(1, 2))
    assert torch.equal(padded.expectation[..., 0], torch.full((1, 2), 5.0))
