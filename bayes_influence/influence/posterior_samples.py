"""Influence from samples of a posterior, any posterior: covariances of losses, no Hessian (Giordano et al. 2018).

With p(theta) ~ exp(-beta sum_j w_j l_j - ...), dE[phi]/dw_i = -beta Cov(l_i, phi), and the removal of i changes E[phi]
by beta Cov(l_i, phi) + beta^2/2 kappa_3(l_i, l_i, phi) + ... What it needs is a matrix of losses at samples, from
variational inference, Laplace, SWAG, SGLD or MCMC alike. As the posterior narrows it tends to the influence function.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.identities import example_ids
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.derivatives import losses_of_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params

MEMBERS_AT_ONCE = 64
"""Samples whose losses are evaluated together."""

SMALLEST_TAIL = 5
"""Fewest weights that a tail's shape can be fitted to."""


@dataclass(frozen=True, eq=False)
class PosteriorSamples:
    """Losses of training examples and test measurements at S samples of one posterior.

    Attributes:
        train_losses: (S, n) l_i at each sample.
        measurements: (S, t) phi of each test example at each sample.
        train_ids: (n,).
        test_ids: (t,).
        beta: The likelihood's power in the posterior: 1 for a Bayesian posterior.
        measurement: What phi is called.

    Raises:
        ValueError: If there are fewer than 4 samples, shapes disagree, a number is not finite, or beta is not positive.
    """

    train_losses: Float[Tensor, "S n"]
    measurements: Float[Tensor, "S t"]
    train_ids: Int[Tensor, " n"]
    test_ids: Int[Tensor, " t"]
    beta: float = 1.0
    measurement: str = "loss"

    def __post_init__(self) -> None:
        if len(self.train_losses) < 4:
            raise ValueError(f"second and third cumulants need at least 4 samples, got {len(self.train_losses)}")
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        for name in ("train_losses", "measurements"):
            bad = ~torch.isfinite(getattr(self, name)).all(dim=1)
            if bad.any():
                raise ValueError(f"{name} are not finite at {int(bad.sum())} of {len(bad)} samples; drop those samples")

    def scores(self) -> InfluenceScores:
        """To first order: removal = beta Cov(l_i, phi), unbiased covariances."""
        covariance = self._centred(self.measurements).T @ self._centred(self.train_losses)
        n = self.train_losses.shape[1]
        return InfluenceScores(
            values=-n * self.beta * covariance / (len(self.train_losses) - 1),
            train_ids=self.train_ids,
            test_ids=self.test_ids,
            measurement=self.measurement,
            curvature="posterior covariance",
            solver=f"{len(self.train_losses)} samples",
        )

    def removal(self, order: int = 2) -> Float[Tensor, "t n"]:
        """Predicted change of E[phi] when an example is removed: beta Cov(l_i, phi) + beta^2/2 kappa_3(l_i, l_i, phi).

        Args:
            order: 1 leaves the third cumulant out.

        Raises:
            ValueError: If the order is neither.
        """
        if order not in (1, 2):
            raise ValueError(f"the order must be 1 or 2, got {order}")
        first = self.scores().removal
        if order == 1:
            return first
        samples = len(self.train_losses)
        unbiased = samples / ((samples - 1) * (samples - 2))
        third = self._centred(self.measurements).T @ self._centred(self.train_losses).square() * unbiased
        return first + 0.5 * self.beta**2 * third

    def group_removal(self, ids: int | Iterable[int] | Tensor, order: int = 2) -> Float[Tensor, " t"]:
        """The same for a group removed together, with L = sum of its losses in l_i's place.

        Raises:
            TypeError: If the ids are not whole numbers.
            ValueError: If no id is given, one twice, or one that is unknown.
        """
        group_ids = example_ids(ids).tolist()
        columns = [(self.train_ids == example).nonzero() for example in group_ids]
        if not columns or any(len(column) == 0 for column in columns):
            raise ValueError(f"the group {group_ids[:5]} must name training examples that have losses here")
        if len(set(group_ids)) != len(group_ids):
            raise ValueError("a group names each example once, but an id occurs twice")
        together = self.train_losses[:, torch.cat(columns)[:, 0]].sum(dim=1, keepdim=True)
        group = PosteriorSamples(together, self.measurements, self.train_ids[:1], self.test_ids, self.beta)
        return group.removal(order)[:, 0]

    def reweighted_removal(self) -> Float[Tensor, "t n"]:
        """The change of E[phi] by self-normalised importance weights ~ exp(beta l_i): exact as S grows.

        Trust it where `tail_shape` is below 0.7.
        """
        weights = torch.softmax(self.beta * self.train_losses, dim=0)
        return self.measurements.T @ weights - self.measurements.mean(dim=0).unsqueeze(1)

    def importance_sample_size(self) -> Float[Tensor, " n"]:
        """1 / sum_s v_s^2 of the normalised weights v that remove an example: samples that its removal leaves."""
        return 1 / torch.softmax(self.beta * self.train_losses, dim=0).square().sum(dim=0)

    def tail_shape(self) -> Float[Tensor, " n"]:
        """Shape k of the generalised Pareto tail of each example's removal weights (Vehtari et al. 2024).

        Above 0.7, importance weights and cumulants of that removal are unreliable: the example matters too much.

        Raises:
            ValueError: If there are too few samples to fit a tail.
        """
        samples = len(self.train_losses)
        tail = min(samples // 5, round(3 * samples**0.5))
        if tail < SMALLEST_TAIL:
            raise ValueError(f"a tail needs at least {5 * SMALLEST_TAIL} samples, got {samples}")
        logs = self.beta * (self.train_losses - self.train_losses.max(dim=0).values)
        ordered = logs.exp().sort(dim=0).values
        return pareto_shape(ordered[-tail:] - ordered[-tail - 1])

    def effective_sample_size(self) -> Float[Tensor, " t"]:
        """Of E[phi] from one chain in the order of the samples (Geyer's initial positive sequence).

        For independent draws it is about S. The standard error of a correlation is about 1 / sqrt of it.
        """
        return effective_sample_size(self.measurements)

    @staticmethod
    def _centred(values: Tensor) -> Tensor:
        return values - values.mean(dim=0)


def losses_at_samples(objective: Objective, samples: Params, data: Dataset) -> Float[Tensor, "S n"]:
    """Losses of every example at every sample of the parameters, (S, ...) each, stacked as `Params`.

    Raises:
        ValueError: If the samples do not name the network's parameters.
    """
    if set(samples) != set(objective.params):
        raise ValueError(
            f"samples must name the network's parameters {sorted(objective.params)}, got {sorted(samples)}"
        )
    count = len(next(iter(samples.values())))
    pieces = []
    with torch.no_grad():
        for start in range(0, count, MEMBERS_AT_ONCE):
            members = {name: value[start : start + MEMBERS_AT_ONCE] for name, value in samples.items()}
            pieces.append(losses_of_members(objective, members, data.batch()))
    return torch.cat(pieces)


def effective_sample_size(chain: Float[Tensor, "S t"]) -> Float[Tensor, " t"]:
    """S / (1 + 2 sum_k rho_k) of every column, at most S; autocorrelations by fast Fourier transform.

    The sum is cut where a pair of neighbouring autocorrelations turns negative.
    """
    samples = len(chain)
    centred = chain - chain.mean(dim=0)
    spectrum = torch.fft.rfft(centred, n=2 * samples, dim=0).abs().square()
    autocovariance = torch.fft.irfft(spectrum, n=2 * samples, dim=0)[:samples]
    rho = autocovariance / autocovariance[:1]
    pairs = rho[: samples - samples % 2].reshape(samples // 2, 2, -1).sum(dim=1)
    positive = (pairs > 0).long().cumprod(dim=0)
    return samples / (2 * (pairs * positive).sum(dim=0) - 1).clamp(min=1.0)


def pareto_shape(excesses: Float[Tensor, "m n"]) -> Float[Tensor, " n"]:
    """The shape k of generalised Pareto distributions by Zhang & Stephens (2009), with a weak prior around 0.5.

    Args:
        excesses: Ascending along the first axis, at least 0.
    """
    m = len(excesses)
    grid = 30 + int(m**0.5)
    positions = torch.arange(1, grid + 1, dtype=excesses.dtype, device=excesses.device).unsqueeze(1)
    largest = excesses[-1].clamp(min=torch.finfo(excesses.dtype).tiny)
    quartile = excesses[max(0, (m + 2) // 4 - 1)].clamp(min=torch.finfo(excesses.dtype).tiny)
    theta = 1 / largest + (1 - (grid / (positions - 0.5)).sqrt()) / (3 * quartile)
    shapes = torch.log1p(-theta.unsqueeze(1) * excesses).mean(dim=1)
    profile = m * (torch.log(-theta / shapes) - shapes - 1)
    weights = torch.softmax(profile, dim=0)
    best = (weights * theta).sum(dim=0)
    shape = torch.log1p(-best * excesses).mean(dim=0)
    return (m * shape + 10 * 0.5) / (m + 10)
