"""Embeddings with Gaussian rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bayes_influence.moments.layers import BayesianLayer
from bayes_influence.moments.linear_maps import Affine, LinearMap
from bayes_influence.moments.moments import Approximation, Moments
from bayes_influence.moments.registry import UnsupportedOperationError


class BayesianEmbedding(BayesianLayer):
    """`nn.Embedding` with Gaussian rows: the mean and the variance of the row that a token names.

    A token that stands in a sequence twice has the same row twice; what the two share is neglected, as between the
    positions of a convolution.
    """

    takes_factors = False

    @property
    def linear_map(self) -> LinearMap:
        """The map of one-hot tokens."""
        return Affine()

    def check_input(self, shape: torch.Size) -> None:
        """Takes tokens of any shape."""

    def check_dtype(self, x: Tensor | Moments) -> None:
        """Takes tokens, whose dtype is no weight's."""

    def propagated(
        self,
        x: Tensor | Moments,
        weight: Tensor,
        bias: Tensor | None,
        weight_rho: Tensor,
        bias_rho: Tensor | None,
        approximation: Approximation,
    ) -> Moments:
        """Rows of mu and of sigma^2.

        Raises:
            UnsupportedOperationError: If the tokens are random.
        """
        if isinstance(x, Moments):
            raise UnsupportedOperationError(f"layer {self.path!r} takes tokens, whole numbers, got Moments")
        return Moments(F.embedding(x, weight), F.embedding(x, torch.exp(2 * weight_rho)), approximation)

    def deterministic(self) -> nn.Module:
        """`nn.Embedding` with the means."""
        rows, columns = self.weight.shape
        layer = nn.Embedding(rows, columns, device="meta")
        layer.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=self.weight.requires_grad)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """Sizes and approximation, as they are printed."""
        rows, columns = self._parameters["weight"].shape  # type: ignore[union-attr]
        return f"{rows}, {columns}, {self.approximation}"
