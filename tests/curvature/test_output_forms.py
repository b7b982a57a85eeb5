"""Hessians in many outputs, in the smallest form that every example has, against the matrices themselves."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.curvature.operators import output_forms
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewton
from bayes_influence.curvature.operators.hessian import Hessian, HessianOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.operators.output_curvature import output_hessians
from bayes_influence.curvature.operators.output_forms import (
    DiagonalCurvatures,
    HeldCurvatures,
    SoftmaxCurvatures,
    joined_curvatures,
    output_curvatures,
)
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise
from bayes_influence.objectives.next_token import NextToken
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay

N, WIDTH, CLASSES = 6, 3, 40


def weighted_classes(outputs, targets):
    return functional.cross_entropy(outputs, targets, weight=torch.linspace(0.5, 2, CLASSES).double(), reduction="none")


def one_against_all(outputs, targets):
    return functional.binary_cross_entropy_with_logits(
        outputs, functional.one_hot(targets, CLASSES).to(outputs), reduction="none"
    ).sum(1)


def pairwise(outputs, targets):
    return (1 + targets) * (outputs - outputs.roll(1, dims=1)).square().sum(1)


def softmax_of_one_example_only(outputs, targets):
    """A softmax loss for all but the last class, whose examples have another one."""
    others = 0.5 * (outputs - outputs.roll(1, dims=1)).square().sum(1)
    return torch.where(targets == CLASSES - 1, others, CrossEntropy()(outputs, targets))


LOSSES = {
    "cross-entropy": (CrossEntropy(), SoftmaxCurvatures),
    "label smoothing": (
        lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1),
        SoftmaxCurvatures,
    ),
    "class weights": (weighted_classes, SoftmaxCurvatures),
    "one against all": (one_against_all, DiagonalCurvatures),
    "pairs": (pairwise, HeldCurvatures),
    "two forms": (softmax_of_one_example_only, HeldCurvatures),
}


def problem(name, bias=True, weights=True):
    torch.manual_seed(1)
    likelihood, _ = LOSSES[name]
    targets = torch.tensor([3, 0, 39, 7, 3, 12])
    own = torch.tensor([1.0, 2, 0.5, 0, 1, 3]).double() if weights else None
    data = Dataset(torch.randn(N, WIDTH).double(), targets, torch.arange(N), weights=own)
    return Objective(nn.Linear(WIDTH, CLASSES, bias).double(), likelihood, WeightDecay(0.1)), data


@pytest.mark.parametrize("name", LOSSES)
def test_every_form_is_the_matrices(name):
    objective, data = problem(name)
    outputs = 3 * objective.network(data.inputs).detach()
    matrices = output_hessians(objective, outputs, data.batch())
    found = output_curvatures(objective, outputs, data.batch())
    assert type(found) is LOSSES[name][1]
    assert found.outputs == CLASSES
    vectors = torch.randn(N, CLASSES, 2).double()
    torch.testing.assert_close(found.products(vectors), matrices @ vectors, rtol=1e-9, atol=1e-10)
    rows = torch.stack([found.row(index) for index in range(CLASSES)], dim=1)
    torch.testing.assert_close(rows, matrices, rtol=1e-9, atol=1e-10)
    parts = found.scaled(torch.arange(N).double()).parts(4)
    scaled = torch.cat([part.products(v) for part, v in zip(parts, vectors.split(4), strict=True)])
    torch.testing.assert_close(scaled, torch.arange(N)[:, None, None] * (matrices @ vectors), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["cross-entropy", "class weights", "one against all", "pairs"])
def test_roots_make_up_the_matrices(name):
    objective, data = problem(name)
    outputs = objective.network(data.inputs).detach()
    found = output_curvatures(objective, outputs, data.batch())
    roots = torch.stack([found.root(index) for index in range(found.root_count)])
    matrices = output_hessians(objective, outputs, data.batch())
    torch.testing.assert_close(torch.einsum("rbc,rbd->bcd", roots, roots), matrices, rtol=1e-9, atol=1e-10)
    signs = 2 * torch.randint(2, roots.shape[:2]).double() - 1
    torch.testing.assert_close(found.drawn(signs), (signs.unsqueeze(2) * roots).sum(0), rtol=1e-9, atol=1e-12)


def test_forms_of_single_precision_are_found_too():
    objective, data = problem("cross-entropy")
    objective, data = objective.to(dtype=torch.float32), data.to(dtype=torch.float32)
    found = output_curvatures(objective, objective.network(data.inputs).detach(), data.batch())
    assert type(found) is SoftmaxCurvatures


def test_what_has_no_smaller_form_is_not_held_unasked():
    objective, data = problem("pairs")
    assert output_curvatures(objective, objective.network(data.inputs).detach(), data.batch(), hold=False) is None


def test_forms_of_several_batches_are_joined_where_they_are_one():
    softmax = SoftmaxCurvatures(torch.ones(2, 1), torch.full((2, 1, 3), 1 / 3))
    diagonal = DiagonalCurvatures(torch.ones(2, 3))
    joined = joined_curvatures([softmax, softmax])
    assert isinstance(joined, SoftmaxCurvatures)
    assert joined.probabilities.shape == (4, 1, 3)
    assert joined_curvatures([softmax, diagonal]) is None


def test_a_negative_curvature_is_refused():
    roots = (DiagonalCurvatures(torch.tensor([[1.0, -1.0]])), HeldCurvatures(torch.diag(torch.tensor([1.0, -1]))[None]))
    for curvatures in roots:
        with pytest.raises(ValueError, match=r"must be convex .* has the eigenvalue -1; use fisher='empirical'"):
            curvatures.root(0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_a_last_layer_of_many_outputs(name, bias):
    objective, data = problem(name, bias)
    operator = LastLayerOperator(objective, data)
    expected = dense_hessian(objective, data.batch())
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-9, atol=1e-10)
    vectors = torch.randn(len(expected), 3).double()
    torch.testing.assert_close(operator @ vectors, expected @ vectors, rtol=1e-9, atol=1e-10)


def test_batches_of_different_forms_are_held(monkeypatch):
    objective, data = problem("two forms")
    monkeypatch.setattr("bayes_influence.curvature.operators.last_layer.BATCH_SIZE", 3)
    data = replace(data, weights=torch.ones(N).double())
    order = data.select([0, 1, 3, 2, 4, 5])
    operator = LastLayerOperator(objective, order)
    torch.testing.assert_close(operator.dense(), dense_hessian(objective, order.batch()), rtol=1e-9, atol=1e-10)


def test_products_go_through_few_examples_at_a_time(monkeypatch):
    objective, data = problem("cross-entropy")
    monkeypatch.setattr("bayes_influence.curvature.operators.last_layer.PRODUCT_NUMBERS", 2 * CLASSES)
    expected = dense_hessian(objective, data.batch())
    vector = torch.randn(len(expected)).double()
    torch.testing.assert_close(LastLayerOperator(objective, data) @ vector, expected @ vector, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", [Hessian(), GaussNewton()])
def test_a_thousand_outputs_take_no_matrix_per_example(kind, monkeypatch):
    monkeypatch.setattr(output_forms, "output_hessians", None)
    torch.manual_seed(0)
    objective = Objective(nn.Linear(2, 1000).double(), CrossEntropy(), WeightDecay(0.1))
    data = Dataset(torch.randn(5, 2).double(), torch.randint(1000, (5,)), torch.arange(5))
    operator = kind.operator(objective, data)
    assert type(operator) is LastLayerOperator
    vectors = torch.randn(3000, 2).double()
    torch.testing.assert_close(operator @ vectors, HessianOperator(objective, data) @ vectors, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["cross-entropy", "one against all"])
def test_ekfac_of_many_outputs(name, ekfac_of):
    objective, data = problem(name, weights=False)
    expected = ekfac_of(objective, data.batch())
    torch.testing.assert_close(EKFACOperator(objective, data, 4).dense(), expected, rtol=1e-8, atol=1e-10)


def test_ekfac_of_outputs_without_a_form_takes_few_examples_at_a_time(ekfac_of, monkeypatch):
    objective, data = problem("pairs", weights=False)
    seen = []
    plain = output_forms.output_hessians
    monkeypatch.setattr(output_forms, "output_hessians", lambda *args: (seen.append(len(args[1])), plain(*args))[1])
    monkeypatch.setattr("bayes_influence.curvature.operators.ekfac.HESSIAN_ENTRIES", 2 * CLASSES**2)
    operator = EKFACOperator(objective, data, 5)
    assert max(seen) == 2
    torch.testing.assert_close(operator.dense(), ekfac_of(objective, data.batch()), rtol=1e-8, atol=1e-10)


def test_few_outputs_are_held():
    objective = Objective(nn.Linear(WIDTH, 2).double(), GaussianNoise(0.5), WeightDecay(0.1))
    data = Dataset(torch.randn(N, WIDTH).double(), torch.randn(N, 2).double(), torch.arange(N))
    assert type(LastLayerOperator(objective, data).output_curvatures) is HeldCurvatures


def sequences(likelihood):
    torch.manual_seed(1)
    targets = torch.randint(9, (3, 5))
    targets[0, 2:4] = -100
    data = Dataset(
        torch.randn(3, 5, 2).double(), targets, torch.arange(3), weights=torch.tensor([1.0, 2, 0.5]).double()
    )
    return Objective(nn.Linear(2, 9).double(), likelihood, WeightDecay(0.1)), data


@pytest.mark.parametrize("likelihood", [NextToken(), NextToken("mean"), NextToken(shift=False)])
def test_tokens_have_a_softmax_each(likelihood):
    objective, data = sequences(likelihood)
    outputs = objective.network(data.inputs).detach()
    matrices = output_hessians(objective, outputs, data.batch())
    found = output_curvatures(objective, outputs, data.batch())
    assert type(found) is SoftmaxCurvatures
    assert found.outputs == 45
    vectors = torch.randn(3, 45, 2).double()
    torch.testing.assert_close(found.products(vectors), matrices @ vectors, rtol=1e-9, atol=1e-10)
    rows = torch.stack([found.row(index) for index in range(45)], dim=1)
    torch.testing.assert_close(rows, matrices, rtol=1e-9, atol=1e-10)
    assert found.root_count == (36 if likelihood.shift else 45)
    roots = torch.stack([found.root(index) for index in range(found.root_count)])
    torch.testing.assert_close(torch.einsum("rbc,rbd->bcd", roots, roots), matrices, rtol=1e-9, atol=1e-10)
    signs = 2 * torch.randint(2, roots.shape[:2]).double() - 1
    torch.testing.assert_close(found.drawn(signs), (signs.unsqueeze(2) * roots).sum(0), rtol=1e-9, atol=1e-12)
