import pytest
import torch

from bayes_influence.curvature.damping import FisherDamping, fisher_metric
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.objectives.derivatives import dense_hessian


def test_whitening_an_elbo_does_not_depend_on_its_scale(variational_objective, classification) -> None:
    """In coordinates mu = sigma t and rho = r / sqrt 2 the Fisher information is the identity: same Hessian."""
    objective, layout = variational_objective, variational_objective.layout
    eta = layout.flatten(objective.params)
    scale = fisher_metric(objective).rsqrt()

    def value(whitened: torch.Tensor) -> torch.Tensor:
        return objective.value(layout.unflatten(scale * whitened), classification.batch())

    expected = torch.func.hessian(value)(eta / scale)
    operator = WhitenedOperator(HessianOperator(objective, classification), fisher_metric(objective))
    torch.testing.assert_close(operator.dense(), expected)


def test_damping_by_the_metric_is_damping_by_the_identity_when_whitened(variational_objective, classification) -> None:
    hessian = HessianOperator(variational_objective, classification)
    metric = fisher_metric(variational_objective)
    damping = FisherDamping(0.3).diagonal(variational_objective)
    rhs = torch.randn(24, dtype=torch.float64)
    direct = torch.linalg.solve((hessian + damping).dense(), rhs)
    whitened = WhitenedOperator(hessian, metric)
    through = whitened.whitened(torch.linalg.solve((whitened + 0.3).dense(), whitened.whitened(rhs)))
    torch.testing.assert_close(through, direct)


def test_the_metric_must_be_positive(variational_objective, classification) -> None:
    matrix = dense_hessian(variational_objective, classification.batch())
    metric = torch.ones(24, dtype=torch.float64)
    metric[3] = 0
    with pytest.raises(ValueError, match=r"of shape \(24,\), positive and finite, got shape \(24,\) with the smallest"):
        WhitenedOperator(DenseOperator(matrix), metric)
    with pytest.raises(ValueError, match=r"of shape \(24,\), positive and finite, got shape \(3,\)"):
        WhitenedOperator(DenseOperator(matrix), torch.ones(3))
