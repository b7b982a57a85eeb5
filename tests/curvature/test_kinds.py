"""What stands for a kind of curvature, and what the kinds say of themselves."""

import pytest
import torch

from bayes_influence.curvature.kinds import CURVATURES, as_curvature
from bayes_influence.curvature.operators import last_layer
from bayes_influence.curvature.operators.ekfac import EKFAC, EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisher, GaussNewton, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import Hessian, HessianOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.operators.sharded import Sharded
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.head import head_problem


@pytest.mark.parametrize("name", CURVATURES)
def test_object_class_operator_class_and_name_mean_the_same(name):
    kind, operator = CURVATURES[name]
    assert as_curvature(name) == as_curvature(kind) == as_curvature(kind()) == as_curvature(operator) == kind()
    assert as_curvature(name).name == name


def test_every_kind_builds_its_operator(make_objective, classification):
    objective = make_objective()
    for kind, operator in CURVATURES.values():
        assert type(kind().operator(objective, classification)) is operator


@pytest.mark.parametrize(
    ("kind", "properties"),
    [
        (Hessian(), (True, False, True)),
        (GaussNewton(), (False, True, True)),
        (EmpiricalFisher(), (False, True, True)),
        (EKFAC(), (False, True, False)),
        (Sharded(), (True, False, True)),
        (Sharded(GaussNewton()), (False, True, True)),
        (as_curvature(lambda objective, data: HessianOperator(objective, data)), (False, False, True)),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_properties(kind, properties):
    assert (kind.is_exact_hessian, kind.is_semidefinite, kind.is_mean_over_examples) == properties


@pytest.mark.parametrize("kind", [Hessian(), GaussNewton()])
def test_a_linear_layer_is_taken_in_closed_form(make_objective, classification, kind, hessian_of):
    head, batch = head_problem(make_objective("last-layer"), classification.batch())
    data = classification.select(range(len(classification)))
    operator = kind.operator(head, type(data)(batch.inputs, batch.targets, data.ids))
    assert type(operator) is LastLayerOperator
    torch.testing.assert_close(operator.dense(), hessian_of(head, batch))
    assert kind.gauss_newton(head, type(data)(batch.inputs, batch.targets, data.ids), operator) is operator


def test_the_batch_size_reaches_the_operator(make_objective, classification):
    for kind in (Hessian(), GaussNewton(), EmpiricalFisher()):
        assert kind.operator(make_objective(), classification, 5).batch_size == 5


@pytest.mark.usefixtures("as_installed")
def test_options_are_fields(make_objective, classification):
    operator = EKFAC(fisher="empirical", batch_size=7).operator(make_objective(), classification)
    expected = EKFACOperator(make_objective(), classification, fisher="empirical")
    torch.testing.assert_close(operator.dense(), expected.dense())
    with pytest.raises(ValueError, match="unknown fisher 'true'; known: exact, sampled, empirical"):
        EKFAC(fisher="true")


def test_a_function_is_taken_with_its_name(make_objective, classification):
    def half(objective, data):
        return GaussNewtonOperator(objective, data, 6)

    kind = as_curvature(half)
    assert (kind.name, repr(kind)) == ("half", "half")
    assert kind.operator(make_objective(), classification).batch_size == 6


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_curvature_is_refused():
    with pytest.raises(ValueError, match=r"unknown curvature 'fisher'; known: hessian, ggn.*is 'empirical-fisher'"):
        as_curvature("fisher")
    with pytest.raises(TypeError, match=r"a curvature is a kind such as Hessian\(\), a name .*, got float"):
        as_curvature(0.5)


def test_hessians_in_the_outputs_that_do_not_fit_are_not_held(make_objective, classification, monkeypatch, hessian_of):
    monkeypatch.setattr(last_layer, "HELD_BYTES", 100)
    head, batch = head_problem(make_objective("last-layer"), classification.batch())
    data = Dataset(batch.inputs, batch.targets, classification.ids)
    for kind in (Hessian(), GaussNewton()):
        operator = kind.operator(head, data)
        assert type(operator) is not LastLayerOperator
        torch.testing.assert_close(operator.dense(), hessian_of(head, batch))
