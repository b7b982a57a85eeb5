import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from bayes_influence.data.dataset import Dataset
from bayes_influence.moments import VARIANCE_FLOOR, Approximation, Moments, UnsupportedOperationError
from bayes_influence.torch_internals import make_fx, tree_flatten, tree_leaves, tree_map, tree_structure, tree_unflatten


@pytest.fixture
def moments():
    return Moments(torch.randn(6, 3), torch.rand(6, 3), Approximation("exact"))


def test_pytree_has_two_leaves_and_keeps_the_approximation(moments):
    leaves, structure = tree_flatten(moments)
    assert leaves[0] is moments.expectation
    assert leaves[1] is moments.variance
    doubled = tree_map(lambda leaf: 2 * leaf, moments)
    assert torch.equal(doubled.variance, 2 * moments.variance)
    assert doubled.approximation == Approximation("exact")
    assert structure.num_leaves == 2


def test_serves_as_the_inputs_of_a_dataset(moments):
    dataset = Dataset(moments, torch.zeros(6, dtype=torch.int64), torch.arange(10, 16))
    rest = dataset.without([10, 12])
    assert isinstance(rest.inputs, Moments)
    assert torch.equal(rest.inputs.expectation, moments.expectation[[1, 3, 4, 5]])
    assert torch.equal(rest.inputs.variance, moments.variance[[1, 3, 4, 5]])
    assert dataset.at(13).batch().inputs.approximation == Approximation("exact")


def test_transforms_take_it_apart_and_put_it_together(moments):
    total = vmap(lambda row: (row * 2.0).variance.sum())(moments)
    assert torch.allclose(total, 4 * moments.variance.sum(1))
    gradient = grad(lambda x: (x.expectation.square() + x.variance).sum())(moments)
    assert torch.allclose(gradient.expectation, 2 * moments.expectation)
    assert torch.equal(gradient.variance, torch.ones(6, 3))
    traced = make_fx(lambda x: torch.tanh(x))(moments)
    assert torch.equal(tree_leaves(traced(moments))[1], torch.tanh(moments).variance)


def test_copies_and_pickles(moments):
    for twin in (copy.deepcopy(moments), pickle.loads(pickle.dumps(moments))):
        assert torch.equal(twin.expectation, moments.expectation)
        assert torch.equal(twin.variance, moments.variance)
        assert twin.approximation == moments.approximation


def test_shape_conveniences(moments):
    assert moments.shape == moments.size() == (6, 3)
    assert moments.size(1) == 3
    assert moments.ndim == moments.dim() == 2
    assert moments.numel() == 18
    assert len(moments) == 6
    assert moments.dtype == torch.float32
    assert moments.device == torch.device("cpu")
    assert moments.is_floating_point()


def test_standard_deviation_is_floored_with_a_finite_derivative():
    variance = torch.tensor([0.0, 4.0], requires_grad=True)
    deviation = Moments(torch.zeros(2), variance).standard_deviation
    assert torch.allclose(deviation, torch.tensor([VARIANCE_FLOOR**0.5, 2.0]))
    deviation.sum().backward()
    assert torch.equal(variance.grad, torch.tensor([0.0, 0.25]))


def test_tensor_methods_are_rules(moments):
    assert torch.equal(moments.tanh().variance, torch.tanh(moments).variance)
    assert moments.flatten(0).shape == (18,)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: x.sort(), "torch.Tensor.sort"),
        (lambda x: torch.linalg.norm(x), "torch.linalg.norm"),
        (lambda x: torch.relu_(x), "relu_"),
        (lambda x: nn.functional.cross_entropy(x, torch.zeros(6, dtype=torch.int64)), "cross_entropy"),
        (lambda x: torch.ones(3) > x, "torch.Tensor.gt"),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention"),
    ],
)
def test_an_operation_without_a_rule_is_refused_by_name(moments, operation, name):
    with pytest.raises(UnsupportedOperationError, match=f"{name} has no rule for Moments"):
        operation(moments)


def test_unknown_attributes_are_refused(moments):
    with pytest.raises(AttributeError, match="no attribute 'sigma'"):
        _ = moments.sigma
    assert not hasattr(moments, "__array__")


def test_parts_must_fit():
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(2,\)"):
        Moments(torch.zeros(3), torch.ones(2))
    with pytest.raises(TypeError, match="needs two tensors, got Tensor and float"):
        tree_unflatten([torch.zeros(3), 1.0], tree_structure(Moments(torch.zeros(3), torch.ones(3)))).__post_init__()


def test_approximation_refuses_unknown_names():
    with pytest.raises(ValueError, match="unknown method 'second-order'; known: first-order, exact, gauss-hermite"):
        Approximation("second-order")
    with pytest.raises(ValueError, match="unknown max_pooling 'largest'; known: co-pooling, clark"):
        Approximation(max_pooling="largest")
