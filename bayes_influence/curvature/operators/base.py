"""`LinearOperator`: what every curvature matrix is to a solver, however it is stored or computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.cost import Plan, dense_plan

DENSE_COLUMNS = 256
"""Unit vectors per product when an operator is made dense: bounds the memory of one product."""


class LinearOperator(ABC):
    """A symmetric matrix A of shape (P, P), known by its products with vectors.

    A subclass supplies `_product` for a block of column vectors; the rest follows from it and may be overridden
    where a cheaper way is known.

    Attributes:
        size: P.
        dtype: Of the vectors that it takes and returns.
        device: Where they live.
        share: What a product costs, relative to one with the operator that this one stands in for, see `within`.
        damping: The diagonal that was added to a curvature, of shape (P,); None where there is none.
        undamped: That curvature; the operator itself where there is no damping.
        examples: Over how many examples it is a mean; None where it is not one.
        has_inverse: Whether `inverse_product` is known in closed form.
    """

    damping: Tensor | None = None
    examples: int | None = None
    has_inverse = False

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device, share: float = 1.0) -> None:
        self.size = size
        self.dtype = dtype
        self.device = device
        self.share = share

    @property
    def undamped(self) -> LinearOperator:
        """The curvature before damping was added."""
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return self.size, self.size

    @abstractmethod
    def _product(self, vectors: Tensor) -> Tensor:
        """A V for V of shape (P, K), with K >= 1."""

    def __matmul__(self, vectors: Float[Tensor, " P *K"]) -> Float[Tensor, " P *K"]:
        """A v for one vector of shape (P,), or A V for K of them as the columns of (P, K).

        Raises:
            ValueError: If the vectors have another length or more than two axes.
            TypeError: If they have another dtype.
        """
        if vectors.ndim not in (1, 2) or len(vectors) != self.size:
            raise ValueError(
                f"{type(self).__name__} of shape {self.shape} takes vectors of shape ({self.size},) or "
                f"({self.size}, K), got {tuple(vectors.shape)}"
            )
        if vectors.dtype != self.dtype:
            raise TypeError(
                f"{type(self).__name__} works in {self.dtype}, got vectors in {vectors.dtype}; convert one of the two"
            )
        if vectors.ndim == 1:
            return self._product(vectors.unsqueeze(1)).squeeze(1)
        return self._product(vectors) if vectors.shape[1] else vectors.clone()

    def __add__(self, damping: float | Float[Tensor, " P"]) -> LinearOperator:
        """A + diag(damping); a number stands for that multiple of the identity."""
        return DampedOperator(self, damping)

    def within(self, error: float) -> LinearOperator:
        """A itself; or, from a subclass that knows one, a cheaper operator that is off by about a fraction `error`.

        For the late steps of a Krylov method, whose products may be the less accurate the smaller the residual is. How
        far off it is was estimated, not bounded: whoever uses it checks the result with A.
        """
        return self

    def inverse_product(
        self, vectors: Float[Tensor, " P *K"], damping: float | Float[Tensor, " P"] = 0.0
    ) -> Float[Tensor, " P *K"]:
        """(A + diag(damping))^{-1} V, from a subclass that knows it in closed form.

        Raises:
            TypeError: If this one does not.
        """
        raise TypeError(f"{type(self).__name__} has no inverse in closed form, as EK-FAC has; take another solver")

    def product_of(self, positions: Int[Tensor, " m"], vectors: Float[Tensor, "P K"]) -> Float[Tensor, "P K"]:
        """The product with the same operator of some of its examples, from a subclass that is a mean over examples.

        Raises:
            ValueError: If this one is not.
        """
        raise ValueError(f"minibatches need the operator of an objective on a dataset, got {type(self).__name__}")

    def semidefinite_part(self, count: int) -> LinearOperator | None:
        """A semidefinite matrix like A of `count` random examples, to precondition with; None where none is known."""
        return None

    def dense(self) -> Float[Tensor, "P P"]:
        """A as a matrix, from products with unit vectors. Memory P^2; P products.

        Raises:
            TooLargeError: If it does not fit.
        """
        plan, blocks = self._dense_plan(), ceil(self.size / DENSE_COLUMNS)
        plan.check(self.device)
        return torch.cat([self @ block for block in plan.timed(self._unit_vectors(), blocks)], dim=1)

    def _dense_plan(self) -> Plan:
        plan = dense_plan(f"the matrix of {type(self).__name__}", self.size, self.dtype.itemsize)
        return replace(plan, held_bytes=plan.held_bytes + self.product_bytes(DENSE_COLUMNS))

    def product_bytes(self, columns: int) -> int:
        """Bytes that products with so many vectors hold beside these: while one is made, and between them."""
        return 0

    def diagonal(self) -> Float[Tensor, " P"]:
        """The diagonal of A. P products unless a subclass knows better."""
        pieces = [(block * (self @ block)).sum(dim=0) for block in self._unit_vectors()]
        return torch.cat(pieces)

    def trace(self) -> Float[Tensor, ""]:
        """Sum of the diagonal, exactly; see `spectrum.trace` for estimates that need few products."""
        return self.diagonal().sum()

    def _unit_vectors(self) -> Iterator[Tensor]:
        positions = torch.arange(self.size, device=self.device).unsqueeze(1)
        for columns in torch.arange(self.size, device=self.device).split(DENSE_COLUMNS):
            yield (positions == columns).to(self.dtype)


class DenseOperator(LinearOperator):
    """A symmetric matrix held in memory.

    It may be unsymmetric by rounding: by eps^(1/2) of its largest entry, or by eps^(3/4). Second derivatives add up
    what is about one, such as p - y, and where a network is sure of every label that cancels down to its rounding.

    Attributes:
        matrix: (P, P), the mean of what was given and its transpose, so that rounding leaves it symmetric.

    Raises:
        ValueError: If the matrix is not square, or not symmetric beyond rounding.
    """

    def __init__(self, matrix: Float[Tensor, "P Q"]) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"an operator needs a square matrix, got shape {tuple(matrix.shape)}")
        asymmetry, rounding = (matrix - matrix.T).abs().max(), torch.finfo(matrix.dtype).eps
        if asymmetry > max(rounding**0.5 * float(matrix.abs().max()), rounding**0.75):
            raise ValueError(f"curvature is symmetric, but |A - A'| reaches {float(asymmetry):.3g}; symmetrise it")
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix = 0.5 * (matrix + matrix.T)

    def _product(self, vectors: Tensor) -> Tensor:
        return self.matrix @ vectors

    def dense(self) -> Float[Tensor, "P P"]:
        """The matrix itself, not a copy."""
        return self.matrix

    def diagonal(self) -> Float[Tensor, " P"]:
        """The diagonal, no products."""
        return self.matrix.diagonal()


class DampedOperator(LinearOperator):
    """A + diag(d).

    Attributes:
        base: A.
        damping: d of shape (P,).

    Raises:
        ValueError: If d is neither a number nor of shape (P,), or is negative or not finite somewhere.
    """

    def __init__(self, base: LinearOperator, damping: float | Float[Tensor, " P"]) -> None:
        super().__init__(base.size, base.dtype, base.device, base.share)
        values = torch.as_tensor(damping, dtype=base.dtype, device=base.device)
        if values.shape not in ((), (base.size,)):
            raise ValueError(f"damping must be a number or of shape ({base.size},), got shape {tuple(values.shape)}")
        if not (torch.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"damping must be finite and at least 0, got {float(values.min()):.3g} as its smallest")
        self.base = base
        self.damping: Tensor = values.expand(base.size)
        self.examples = base.examples

    @property
    def undamped(self) -> LinearOperator:
        """The base."""
        return self.base

    def __add__(self, damping: float | Float[Tensor, " P"]) -> LinearOperator:
        """The base with both dampings."""
        return DampedOperator(self.base, self.damping + DampedOperator(self.base, damping).damping)

    def _product(self, vectors: Tensor) -> Tensor:
        return self.base @ vectors + self.damping.unsqueeze(1) * vectors

    def within(self, error: float) -> LinearOperator:
        """The same damping on what stands in for the base."""
        base = self.base.within(error)
        return self if base is self.base else DampedOperator(base, self.damping)

    def dense(self) -> Float[Tensor, "P P"]:
        """The base's matrix with d added to its diagonal."""
        matrix = self.base.dense()
        return torch.diagonal_scatter(matrix, matrix.diagonal() + self.damping)

    def product_bytes(self, columns: int) -> int:
        """Those of the base."""
        return self.base.product_bytes(columns)

    def diagonal(self) -> Float[Tensor, " P"]:
        """The base's diagonal plus d."""
        return self.base.diagonal() + self.damping


def as_operator(operator_or_matrix: LinearOperator | Tensor) -> LinearOperator:
    """The operator itself, or a `DenseOperator` around a symmetric matrix."""
    return DenseOperator(operator_or_matrix) if isinstance(operator_or_matrix, Tensor) else operator_or_matrix
