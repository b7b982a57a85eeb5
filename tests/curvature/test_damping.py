import math
from dataclasses import replace

import pytest
import torch

from bayes_influence.curvature.damping import (
    DiagonalDamping,
    FisherDamping,
    IdentityDamping,
    as_damping,
    automatic_delta,
    check_damping,
    fisher_metric,
)


def test_identity_damping_is_delta_everywhere(make_objective) -> None:
    objective = make_objective()
    torch.testing.assert_close(IdentityDamping(0.3).diagonal(objective), torch.full((43,), 0.3, dtype=torch.float64))


def test_a_number_is_meant_in_the_metric_of_the_parameters(make_objective, variational_objective) -> None:
    assert as_damping(make_objective(), 2) == IdentityDamping(2)
    assert as_damping(variational_objective, 0.5) == FisherDamping(0.5)
    means = replace(variational_objective, parameters=["weight"])
    assert as_damping(means, 0.5) == FisherDamping(0.5)
    deviations = replace(variational_objective, parameters=["weight_rho"])
    assert as_damping(deviations, 0.5) == FisherDamping(0.5)


@pytest.mark.usefixtures("as_installed")
def test_a_damping_is_taken_as_it_is_and_what_is_none_is_refused(variational_objective) -> None:
    damping = IdentityDamping(0.5)
    assert as_damping(variational_objective, damping) is damping
    for no_damping, name in ((True, "bool"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"damping must be 'auto', a number or a Damping, got {name}"):
            as_damping(variational_objective, no_damping)


def test_diagonal_damping_scales_the_given_metric(make_objective) -> None:
    metric = torch.arange(18, dtype=torch.float64)
    torch.testing.assert_close(DiagonalDamping(0.5, metric).diagonal(make_objective("last-layer")), 0.5 * metric)


def test_fisher_metric_is_the_curvature_of_the_kl_divergence(variational_objective) -> None:
    """The Hessian of KL(q_eta' || q_eta) at eta' = eta is the Fisher information of q_eta."""
    layout = variational_objective.layout
    eta = layout.flatten(variational_objective.params)

    def divergence(other: torch.Tensor) -> torch.Tensor:
        q, p = (
            torch.distributions.Normal(part["weight"], part["weight_rho"].exp())
            for part in (layout.unflatten(other), layout.unflatten(eta))
        )
        return torch.distributions.kl_divergence(q, p).sum()

    fisher = torch.func.hessian(divergence)(eta)
    torch.testing.assert_close(torch.diag(fisher_metric(variational_objective)), fisher)
    torch.testing.assert_close(FisherDamping(0.1).diagonal(variational_objective), 0.1 * fisher.diagonal())


def test_fisher_damping_is_the_identity_where_nothing_is_variational(make_objective) -> None:
    objective = make_objective("last-layer")
    torch.testing.assert_close(FisherDamping(0.2).diagonal(objective), IdentityDamping(0.2).diagonal(objective))


def test_fisher_metric_follows_the_selection(variational_objective) -> None:
    from dataclasses import replace

    means = replace(variational_objective, parameters="means")
    torch.testing.assert_close(fisher_metric(means), fisher_metric(variational_objective)[:12])


@pytest.mark.parametrize("metric", [IdentityDamping, FisherDamping, lambda d: DiagonalDamping(d, torch.ones(2))])
@pytest.mark.parametrize("delta", [-1.0, math.nan, math.inf])
def test_delta_must_be_finite_and_not_negative(metric, delta: float) -> None:
    with pytest.raises(ValueError, match="damping delta must be finite and at least 0"):
        metric(delta)


def test_diagonal_damping_refuses_a_negative_metric() -> None:
    with pytest.raises(ValueError, match="metric must be finite and at least 0, got -1"):
        DiagonalDamping(1.0, torch.tensor([1.0, -1.0]))


def test_diagonal_damping_refuses_another_length(make_objective) -> None:
    with pytest.raises(ValueError, match=r"metric has shape \(5,\), but the objective selects 43"):
        DiagonalDamping(1.0, torch.ones(5, dtype=torch.float64)).diagonal(make_objective())


@pytest.mark.parametrize(("smallest", "trace", "delta"), [(-2.0, 10.0, 2.2), (-0.01, 40.0, 0.8), (0.5, 40.0, 0.8)])
def test_automatic_delta(smallest: float, trace: float, delta: float) -> None:
    assert automatic_delta(smallest, trace, 5) == pytest.approx(delta)


def test_automatic_delta_refuses_a_negative_trace() -> None:
    with pytest.raises(ValueError, match=r"needs tr\(G\) >= 0"):
        automatic_delta(0.0, -1.0, 5)


def test_no_damping_is_a_damping_and_one_parameter_is_enough(make_objective) -> None:
    for none in (IdentityDamping(0.0), FisherDamping(0.0), as_damping(make_objective(), 0)):
        assert not none.diagonal(make_objective()).any()
    assert automatic_delta(0.0, 3.0, 1) == pytest.approx(0.3)
    assert automatic_delta(0.0, 0.0, 1) == 0
    with pytest.raises(ValueError, match=r"P >= 1, got tr\(G\) = 3.0 and P = 0"):
        automatic_delta(0.0, 3.0, 0)


@pytest.mark.usefixtures("as_installed")
def test_what_can_be_no_damping_is_refused() -> None:
    for fine in (0, 0.5, IdentityDamping(1.0)):
        check_damping(fine)
    with pytest.raises(ValueError, match="the damping delta must be finite and at least 0, got -1"):
        check_damping(-1)
    for wrong in ("0.1", None):
        with pytest.raises(TypeError, match="the damping delta must be"):
            check_damping(wrong)
        with pytest.raises(TypeError, match="the damping delta must be"):
            IdentityDamping(wrong)
    with pytest.raises(TypeError, match="got the class FisherDamping; give it its delta"):
        check_damping(FisherDamping)
