"""The kinds of curvature by name, and the one function that parses what stands for a kind."""

from __future__ import annotations

from bayes_influence.arguments import named
from bayes_influence.curvature.choice import chosen
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFAC, EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import (
    EmpiricalFisher,
    EmpiricalFisherOperator,
    GaussNewton,
    GaussNewtonOperator,
)
from bayes_influence.curvature.operators.hessian import Hessian, HessianOperator
from bayes_influence.curvature.operators.kind import Curvature, CustomCurvature, MakeCurvature

CURVATURES: dict[str, tuple[type[Curvature], type[LinearOperator]]] = {
    "hessian": (Hessian, HessianOperator),
    "ggn": (GaussNewton, GaussNewtonOperator),
    "empirical-fisher": (EmpiricalFisher, EmpiricalFisherOperator),
    "ekfac": (EKFAC, EKFACOperator),
}
"""Every kind by name, with the operator class that means the same. There is no plain "fisher": the Fisher information,
with targets drawn from the model, is the Gauss-Newton matrix for the library's likelihoods; the empirical Fisher is
another matrix."""

CurvatureLike = Curvature | type[Curvature] | type[LinearOperator] | MakeCurvature | str
"""What stands for a kind of curvature: the kind, its class, its operator's class, its name, or a function."""


def as_curvature(curvature: CurvatureLike) -> Curvature:
    """The kind that is meant: `Hessian()`, `Hessian`, `HessianOperator` and `"hessian"` are the same.

    A function `(objective, data) -> operator` is a kind of which nothing is known: not the exact Hessian, not
    semidefinite.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is none of these.
    """
    for kind, operator in CURVATURES.values():
        if curvature is operator:
            return kind()
    found = chosen(
        curvature,
        Curvature,  # type: ignore[type-abstract]
        {name: kind for name, (kind, _) in CURVATURES.items()},
        what="curvature is a kind such as Hessian()",
        function="(objective, data) -> operator",
        hint=". The Fisher information is 'ggn'; with the observed targets it is 'empirical-fisher'",
    )
    return found if isinstance(found, Curvature) else CustomCurvature(found, named(found))
