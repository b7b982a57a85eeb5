import copy
import operator
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from bayes_influence.data.dataset import Dataset
from bayes_influence.moments import VARIANCE_FLOOR, Approximation, Moments, UnsupportedOperationError, to_bayesian
from bayes_influence.moments.moments import assign
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
    assert torch.equal(moments.T.variance, moments.variance.T)
    assert torch.equal(moments.unsqueeze(0).mT.expectation, moments.expectation.unsqueeze(0).mT)
    assert torch.equal(moments.tanh().variance, torch.tanh(moments).variance)
    assert moments.flatten(0).shape == (18,)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (lambda x: x.sort(), "torch.Tensor.sort"),
        (lambda x: torch.linalg.norm(x), "torch.linalg.norm"),
        (lambda x: nn.functional.cross_entropy(x, torch.zeros(6, dtype=torch.int64)), "cross_entropy"),
    ],
)
def test_an_operation_without_a_rule_is_refused_by_name(moments, operation, name):
    with pytest.raises(UnsupportedOperationError, match=f"{name} has no rule for Moments"):
        operation(moments)


def test_unknown_attributes_are_refused(moments):
    with pytest.raises(AttributeError, match="no attribute 'sigma'"):
        _ = moments.sigma
    assert not hasattr(moments, "__cuda_array_interface__")


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
    with pytest.raises(
        ValueError, match="unknown structure 'sparse'; known: diagonal, calibrated, covariance, calibrated-covariance"
    ):
        Approximation(structure="sparse")


IN_PLACE = [
    lambda x: operator.iadd(x, 5.0),
    lambda x: operator.isub(x, torch.ones(3)),
    lambda x: operator.imul(x, 2.0),
    lambda x: operator.itruediv(x, 2.0),
    lambda x: operator.ipow(x, 2),
    lambda x: x.add_(1.0, alpha=3.0),
    lambda x: x.clamp_(0.0, 1.0),
    lambda x: torch.relu_(x),
    lambda x: nn.functional.elu_(x),
    lambda x: x.neg_(),
]


@pytest.mark.parametrize("work", IN_PLACE)
def test_operations_in_place_are_seen_under_every_name_as_those_of_tensors(work):
    values = torch.randn(6, 3)
    x, tensor = Moments(values, torch.zeros(6, 3)), values.clone()
    alias, before = x, values.clone()
    assert work(x) is alias
    work(tensor)
    assert torch.allclose(alias.expectation, tensor)
    assert torch.equal(values, before)


def test_a_value_that_was_changed_in_place_is_one_object_twice():
    h = Moments(torch.tensor([-1.0, 2.0]), torch.ones(2))
    total = torch.relu_(h) + h
    assert torch.equal(total.expectation, torch.tensor([0.0, 4.0]))
    assert torch.equal(total.variance, torch.tensor([0.0, 4.0]))


@pytest.mark.parametrize("view", [lambda x: x[:, 0], lambda x: x.flatten(), lambda x: x.T, lambda x: x.chunk(3, 1)[1]])
def test_in_place_beside_a_view_is_refused_on_either_side(moments, view):
    other = view(moments)
    with pytest.raises(UnsupportedOperationError, match=r"while a view of them .* is in use"):
        moments.add_(1.0)
    with pytest.raises(UnsupportedOperationError, match=r"while a view of them .* is in use"):
        other.add_(1.0)
    copied = other.clone()
    assert copied.add_(1.0) is copied
    del other
    assert moments.add_(1.0) is moments


def test_in_place_operations_that_a_tensor_cannot_do_are_refused(moments):
    with pytest.raises(ValueError, match=r"must keep the shape \(6, 3\), got \(2, 6, 3\)"):
        moments.add_(torch.ones(2, 6, 3))
    tensor = torch.ones(6, 3)
    with pytest.raises(UnsupportedOperationError, match="Tensor cannot take in Moments in place"):
        tensor += moments
    for target in (moments, tensor):
        with pytest.raises(UnsupportedOperationError, match=f"entries of {type(target).__name__} cannot be assigned"):
            target[0] = moments[1]
    with pytest.raises(UnsupportedOperationError, match="zero_ has no rule for Moments"):
        moments.zero_()


def test_in_place_keeps_the_type_of_the_entries(moments):
    assert moments.add_(torch.ones(3, dtype=torch.float64)).dtype == torch.float32


COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("compare", COMPARISONS)
def test_comparisons_are_refused_whichever_side_moments_are_on(moments, compare):
    for left, right in ((moments, 0), (0, moments), (moments, moments), (torch.ones(3), moments)):
        with pytest.raises(UnsupportedOperationError, match="Moments cannot be compared"):
            compare(left, right)
    with pytest.raises(UnsupportedOperationError, match="Moments cannot be compared"):
        torch.allclose(moments, moments)
    assert (moments == None) is False  # noqa: E711 (as of a tensor)
    assert (moments != None) is True  # noqa: E711


@pytest.mark.parametrize("use", [bool, float, int, np.asarray, lambda x: x.item(), lambda x: x.tolist()])
def test_moments_become_no_number_truth_value_or_array(moments, use):
    with pytest.raises(UnsupportedOperationError, match=r"shape \(6, 3\) are a mean and a variance"):
        use(moments)


def test_random_positions_and_conditions_are_refused(moments):
    for index in (lambda: torch.ones(6)[moments], lambda: moments[moments], lambda: moments[0, moments]):
        with pytest.raises(UnsupportedOperationError, match="Moments cannot be an index"):
            index()
    with pytest.raises(UnsupportedOperationError, match="condition of where must be fixed"):
        torch.where(moments, 1.0, 0.0)
    assert torch.equal(moments[[2, 0]].variance, moments.variance[[2, 0]])


def test_arguments_that_a_rule_does_not_take_are_named(moments):
    with pytest.raises(UnsupportedOperationError, match=r"sum of Moments does not take these arguments .*'dtype'"):
        moments.sum(0, dtype=torch.float64)
    into = {"out": torch.empty(6, 3)}
    for write in (torch.add, torch.mul):
        with pytest.raises(UnsupportedOperationError, match="cannot write a mean and a variance into a tensor; leave"):
            write(moments, 1, **into)
    with pytest.raises(UnsupportedOperationError, match=r"tanh cannot write a mean and a variance into a tensor"):
        torch.tanh(moments, **into)
    torch.testing.assert_close(torch.tanh(moments, out=None).expectation, torch.tanh(moments).expectation)


class Asking(nn.Module):
    """A network that treats tensors and other values differently."""

    def __init__(self, question):
        super().__init__()
        self.layer, self.question = nn.Linear(4, 3), question

    def forward(self, x):
        h = self.layer(x)
        return torch.relu(h) if self.question(h) else h


@pytest.mark.parametrize("question", [lambda h: isinstance(h, torch.Tensor), torch.is_tensor])
def test_a_branch_for_tensors_is_refused_in_a_forward_pass_and_nowhere_else(question):
    twin = to_bayesian(Asking(question))
    if question is torch.is_tensor:
        twin.question = lambda h: torch.is_tensor(h) and isinstance(h, torch.Tensor)
    with pytest.raises(UnsupportedOperationError, match="asks whether its value is a Tensor"):
        twin(torch.ones(2, 4))
    assert not question(Moments(torch.ones(2), torch.ones(2)))
    twin.question = lambda h: isinstance(h, Moments)
    assert (twin(torch.ones(2, 4)).expectation >= 0).all()


def test_what_takes_in_a_result_takes_its_approximation():
    x = Moments(torch.zeros(2), torch.ones(2), Approximation("first-order"))
    assign(x, Moments(torch.ones(2), torch.ones(2), Approximation("exact")))
    assert x.approximation == Approximation("exact")
