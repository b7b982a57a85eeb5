"""What stands for a kind of curvature, and what the kinds say of themselves."""

from dataclasses import replace

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
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.regularisers import WeightDecay


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
    reduction = reduce(make_objective("last-layer"), classification)
    head, data = reduction.problem.at(0), reduction.examples()
    operator = kind.operator(head, data)
    assert type(operator) is LastLayerOperator
    torch.testing.assert_close(operator.dense(), hessian_of(head, data.batch()))
    assert kind.gauss_newton(head, data, operator) is operator


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
    reduction = reduce(make_objective("last-layer"), classification)
    head, data = reduction.problem.at(0), reduction.examples()
    for kind in (Hessian(), GaussNewton()):
        operator = kind.operator(head, data)
        assert type(operator) is not LastLayerOperator
        torch.testing.assert_close(operator.dense(), hessian_of(head, data.batch()))


def weighted_and_repeated(data):
    """Examples with whole-number weights of mean 1 after scaling, and the same examples as often as the number says."""
    counts = torch.arange(len(data)) % 4
    weights = counts.double() * len(data) / counts.sum()
    rows = torch.arange(len(data)).repeat_interleave(counts)
    return replace(data, weights=weights), Dataset(data.inputs[rows], data.targets[rows], torch.arange(len(rows)))


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
@pytest.mark.parametrize(
    "kind",
    [Hessian(), GaussNewton(), EmpiricalFisher(), EKFAC(), EKFAC(fisher="empirical")],
    ids=["hessian", "ggn", "empirical-fisher", "ekfac", "ekfac-empirical"],
)
def test_a_weight_is_a_repetition_in_every_kind(make_objective, classification, kind, parameters):
    objective = make_objective(parameters)
    weighted, repeated = weighted_and_repeated(classification)
    if parameters == "last-layer":
        (objective, weighted), (_, repeated) = [
            (one.problem.at(0), one.examples()) for one in (reduce(objective, weighted), reduce(objective, repeated))
        ]
    expected = kind.operator(objective, repeated).dense()
    torch.testing.assert_close(kind.operator(objective, weighted, 7).dense(), expected, rtol=1e-9, atol=1e-12)


def test_a_weight_is_a_repetition_in_ekfac_of_random_signs(make_objective, classification):
    # Of two classes Lambda_i has one root, whose sign cancels.
    two = replace(classification, targets=classification.targets.clamp(max=1))
    make = make_objective()
    network = torch.nn.Sequential(*list(make.network)[:2], torch.nn.Linear(5, 2).double())
    objective = Objective(network, make.likelihood, make.regulariser)
    weighted, repeated = weighted_and_repeated(two)
    kind = EKFAC(fisher="sampled")
    expected = kind.operator(objective, repeated).dense()
    torch.testing.assert_close(kind.operator(objective, weighted, 7).dense(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_a_weight_is_a_repetition_in_convolutions_and_loose_parameters(fisher):
    torch.manual_seed(3)
    layers = torch.nn.Conv2d(1, 2, 2), torch.nn.PReLU(2), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    objective = Objective(torch.nn.Sequential(*layers).double(), CrossEntropy(), WeightDecay(0.1))
    data = Dataset(torch.randn(9, 1, 3, 3).double(), torch.arange(9) % 3, torch.arange(9))
    weighted, repeated = weighted_and_repeated(data)
    kind = EKFAC(fisher=fisher, allow_fallback=True)
    expected = kind.operator(objective, repeated).dense()
    torch.testing.assert_close(kind.operator(objective, weighted, 4).dense(), expected, rtol=1e-9, atol=1e-12)
