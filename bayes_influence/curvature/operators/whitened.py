"""Curvature in the coordinates in which a diagonal metric is the identity."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator


class WhitenedOperator(LinearOperator):
    """M^{-1/2} A M^{-1/2} for a positive diagonal metric M.

    With the Fisher information of q as M (`damping.fisher_metric`) this is an ELBO's Hessian free of the scale of its
    means and variances, the form in which spectra of different posteriors can be compared. Its inverse serves damping
    by M: (A + delta M)^{-1} = M^{-1/2} (M^{-1/2} A M^{-1/2} + delta I)^{-1} M^{-1/2}.

    Attributes:
        base: A.
        metric: The diagonal of M, of shape (P,).

    Raises:
        ValueError: If the metric is not positive everywhere or has another length.
    """

    def __init__(self, base: LinearOperator, metric: Float[Tensor, " P"]) -> None:
        if metric.shape != (base.size,) or not (metric > 0).all() or not metric.isfinite().all():
            raise ValueError(
                f"the metric must be of shape ({base.size},), positive and finite, got shape {tuple(metric.shape)} "
                f"with the smallest entry {float(metric.min()):.3g}"
            )
        super().__init__(base.size, base.dtype, base.device, base.share)
        self.base = base
        self.metric = metric.to(dtype=base.dtype, device=base.device)
        self._scale = self.metric.rsqrt()

    def whitened(self, vectors: Float[Tensor, " P *K"]) -> Float[Tensor, " P *K"]:
        """M^{-1/2} V."""
        return self._scale.reshape(-1, *[1] * (vectors.ndim - 1)) * vectors

    def _product(self, vectors: Tensor) -> Tensor:
        return self.whitened(self.base @ self.whitened(vectors))

    def within(self, error: float) -> LinearOperator:
        """What stands in for the base, in the same coordinates."""
        base = self.base.within(error)
        return self if base is self.base else WhitenedOperator(base, self.metric)

    def dense(self) -> Float[Tensor, "P P"]:
        """The base's matrix, scaled from both sides."""
        return self._scale.unsqueeze(1) * self.base.dense() * self._scale

    def product_bytes(self, columns: int) -> int:
        """Those of the base."""
        return self.base.product_bytes(columns)

    def diagonal(self) -> Float[Tensor, " P"]:
        """The base's diagonal over the metric."""
        return self.base.diagonal() / self.metric
