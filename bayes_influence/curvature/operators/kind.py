"""`Curvature`: a kind of curvature, as an object that states its properties and builds the operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective

MakeCurvature = Callable[[Objective, Dataset], LinearOperator]
"""Curvature of one's own: `(objective, data) -> operator`, the regulariser inside."""


class Curvature(ABC):
    """A kind of curvature matrix. Subclasses are frozen dataclasses, their options are fields.

    Attributes:
        is_exact_hessian: Whether it is the Hessian of the training objective, so that higher derivatives belong to it.
        is_semidefinite: Whether it has no negative eigenvalues, wherever likelihood (in the outputs) and regulariser
            are convex.
        is_mean_over_examples: Whether the curvature of a union of examples is the mean of the parts' curvatures.
        compares_companies: Whether building it refuses losses that depend on the other examples of a batch, of every
            example, wherever `is_compared` says so, and nobody has to ask before.
    """

    is_exact_hessian = False
    is_semidefinite = False
    is_mean_over_examples = True
    compares_companies = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What scores call it."""

    @abstractmethod
    def operator(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> LinearOperator:
        """The matrix where the objective stands, in its selected parameters, the regulariser inside.

        Args:
            objective: Whose curvature.
            data: The examples of its mean.
            batch_size: Most examples that go through the network at a time; the kind's own choice where not given.
        """

    def gauss_newton(
        self, objective: Objective, data: Dataset, operator: LinearOperator, batch_size: int | None = None
    ) -> LinearOperator:
        """The matrix whose trace tells automatic damping how much curvature there is; `operator` itself by default.

        Args:
            objective: Whose curvature.
            data: The examples of its mean.
            operator: What `operator` built of them, possibly made dense since.
            batch_size: As in `operator`.
        """
        return operator

    def examples(self, data: Dataset) -> int:
        """The number of examples in the mean, of which `data` may be this process' share."""
        return len(data)


@dataclass(frozen=True, repr=False)
class CustomCurvature(Curvature):
    """A function `(objective, data) -> operator` as a kind of curvature of which nothing is known.

    Attributes:
        make: The function.
        label: What scores call it.
    """

    make: MakeCurvature
    label: str

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    def __repr__(self) -> str:
        return self.label

    def operator(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> LinearOperator:
        """What the function makes; it chooses its own batches."""
        return self.make(objective, data)
