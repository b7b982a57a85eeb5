"""Covariances through fully connected layers: exact in the layer, to first order in the activations between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from bayes_influence.errors import BayesInfluenceError
from bayes_influence.moments.joint import own_source, own_variance
from bayes_influence.moments.moments import Approximation, Moments
from bayes_influence.moments.sources import Covariance, Source

COVARIANCE_BYTES = 2**32
"""Largest covariance of one layer's outputs for one batch."""


class CovarianceTooLargeError(BayesInfluenceError, MemoryError):
    """The covariance of a layer's outputs would take more memory than is allowed."""


def covariant_linear(
    x: Moments,
    weight: Float[Tensor, "out inputs"],
    bias: Float[Tensor, " out"] | None,
    weight_rho: Float[Tensor, "out inputs"],
    bias_rho: Float[Tensor, " out"] | None,
    approximation: Approximation,
) -> Moments:
    """Moments of z = W x + b with independent weights N(mu, sigma^2) and biases N(b, sigma_b^2), and their covariance.

    Cov(z) = mu Cov(x) mu' + diag(sigma^2 (m^2 + v) + sigma_b^2), exact. With x = m + L u + own parts of variance d,
    mu Cov(x) mu' = (mu L) diag(s) (mu L)' + mu diag(d) mu': the columns of z are those of mu L and of mu, with the
    variances s and d, so that there are as many as the layers since the first have inputs. Of the first layer they are
    mu itself, the same for all examples; the factors that activations put to them are kept apart. What has no own
    parts, as the output of a layer norm, brings no columns of its own.

    Args:
        x: The input, its covariance or independent entries.
        weight: mu.
        bias: b, or None.
        weight_rho: log sigma.
        bias_rho: log sigma_b, or None.
        approximation: What the output carries on to the next rules.
    """
    before, own = x.covariance, own_variance(x)
    columns, variances, shared = weight, own, F.linear(own, weight.square())
    sources: tuple[Source, ...] | None = (own_source(x),)
    if before is not None:
        mapped = (weight * before.scale.unsqueeze(-2)) @ before.columns
        of_columns = (mapped.square() @ before.variances.unsqueeze(-1)).squeeze(-1)
        sources = before.sources if before.complete else before.sources and (*before.sources, own_source(x))
        if before.complete:
            columns, variances, shared = mapped, before.variances, of_columns
        else:
            columns = torch.cat([mapped, weight.expand(*x.shape[:-1], *weight.shape)], -1)
            variances, shared = torch.cat([before.variances, own], -1), shared + of_columns
    second_moment = x.expectation.square() + x.variance
    bias_variance = None if bias_rho is None else torch.exp(2 * bias_rho)
    fresh = F.linear(second_moment, torch.exp(2 * weight_rho), bias_variance)
    mean = F.linear(x.expectation, weight, bias)
    covariance = Covariance(columns, torch.ones_like(shared), variances, shared, sources)
    return Moments(mean, fresh + shared, approximation, covariance)


def check_memory(path: str, x: Moments, weight: Float[Tensor, "out inputs"]) -> None:
    """Refuses a layer whose outputs' covariance would be too large, before anything of it is computed.

    Args:
        path: Where the layer stands in its network.
        x: Its input.
        weight: Its weights.

    Raises:
        CovarianceTooLargeError: Naming the layer and what it would take.
    """
    check_columns(f"the {len(weight)} outputs of layer {path or 'of the network'!r}", x, len(weight))


def check_columns(what: str, x: Moments, outputs: int) -> None:
    """Refuses columns that would be too large, before they are made.

    Args:
        what: The activation that is to have them.
        x: What a map mixes.
        outputs: Into how many entries.

    Raises:
        CovarianceTooLargeError: Saying what they would take.
    """
    before, inputs = x.covariance, x.shape[-1]
    rank = 0 if before is None else before.variances.shape[-1]
    if before is None or not before.complete:
        rank += inputs
    examples = x.shape[:-1].numel()
    needed = examples * outputs * rank * x.expectation.element_size()
    if needed > COVARIANCE_BYTES:
        raise CovarianceTooLargeError(
            f"the covariance of {what} has rank {rank}, and takes "
            f"{needed / 2**30:.1f} GiB for {examples} examples, more than {COVARIANCE_BYTES / 2**30:.1f}; take at most "
            f"{int(examples * COVARIANCE_BYTES / needed)} examples at a time, or structure='calibrated' or 'diagonal'"
        )
