"""Retraining protocols: named objects with everything fixed that a refit depends on.

Each removes every group on its own and nothing as a control, batched over seeds and removals, for every scheme: the
objective that was trained is the one that is refitted, an ELBO included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor, nn

from bayes_influence.curvature.damping import Damping
from bayes_influence.data.dataset import Dataset
from bayes_influence.models.initialisation import initial_params
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.minimum import newton_refits
from bayes_influence.retraining.proximal import linear_response, proximal_refits
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.sampled import sampled_refits
from bayes_influence.retraining.trained import trained_refits
from bayes_influence.training.fits import Fits
from bayes_influence.training.schedules import Schedule


class RetrainingProtocol(ABC):
    """How networks are refitted without some of their training examples.

    Attributes:
        name: What tables and files call it.
    """

    name: str

    @abstractmethod
    def refit(
        self, fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], *, progress: bool = False
    ) -> Refits:
        """Refits every seed without each group, and once without removing anything.

        Args:
            fits: Trained networks, S of them, with the objective and the parameters that are refitted.
            train: Their training examples.
            removed: What to remove, or ids (S, k) to remove one at a time with 1/n fixed.
            progress: Whether to show a progress bar.
        """


@dataclass(frozen=True)
class FromScratch(RetrainingProtocol):
    """Cold: the same seed, initialisation and schedule as the fit's, SWA's averaging repeated.

    The selected parameters restart at their initialisation; where that is the last layer, its feature map stays the
    fit's. With the fit's own schedule, the control ends where the training did (before a polish).

    Attributes:
        make_network: Builds the deterministic network, as it was built for the fits.
        schedule: The fits' own.
        watch: Examples whose losses are recorded at every epoch.
        at_once: Refits trained as one ensemble, see `trained_refits`.
    """

    make_network: Callable[[], nn.Module]
    schedule: Schedule
    watch: Dataset | None = None
    at_once: int | None = None
    name = "cold"

    def refit(
        self, fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`.

        A scheme that draws random numbers while it trains draws those of the fit's seed for the control and for every
        removal, see `sampled_refits`.

        Raises:
            ValueError: If such a scheme is to be retrained in the last layer only, or with `watch`.
        """
        like = next(iter(fits.params.values()))
        start = initial_params(
            lambda: fits.scheme.prepare(self.make_network()), fits.seeds, dtype=like.dtype, device=like.device
        )
        if fits.scheme.sampled:
            if self.watch is not None:
                raise ValueError(
                    f"losses of the scheme {fits.scheme.name} cannot be watched from scratch; leave it out"
                )
            return sampled_refits(fits, train, removed, self.schedule, start, progress=progress)
        return trained_refits(
            fits,
            train,
            removed,
            self.schedule,
            start=start,
            averaging=True,
            watch=self.watch,
            at_once=self.at_once,
            progress=progress,
        )


@dataclass(frozen=True)
class Warm(RetrainingProtocol):
    """Training goes on from the fit, with a fresh optimiser.

    Attributes:
        schedule: Of the refits.
        averaging: Whether the refits of an averaged network are averaged again.
        watch: Examples whose losses are recorded at every epoch.
        at_once: Refits trained as one ensemble, see `trained_refits`.
    """

    schedule: Schedule
    averaging: bool = False
    watch: Dataset | None = None
    at_once: int | None = None
    name = "warm"

    def refit(
        self, fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        return trained_refits(
            fits,
            train,
            removed,
            self.schedule,
            averaging=self.averaging,
            watch=self.watch,
            at_once=self.at_once,
            progress=progress,
        )


@dataclass(frozen=True)
class Minimum(RetrainingProtocol):
    """Newton's method to the minimum nearest the fit: for a regularised last layer the exact answer.

    Attributes:
        tolerance: Gradient norm at which a refit is done.
    """

    tolerance: float = 1e-10
    name = "newton"

    def refit(
        self, fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        return newton_refits(fits, train, removed, tolerance=self.tolerance, progress=progress)


@dataclass(frozen=True)
class Proximal(RetrainingProtocol):
    """The minimum of the objective plus 1/2 ||theta - theta_hat||^2 in the damping's metric.

    Attributes:
        damping: A number for that multiple of the identity, or a `Damping`.
        tolerance: Gradient norm at which a refit is done.
    """

    damping: float | Damping
    tolerance: float = 1e-8
    name = "proximal"

    def refit(
        self, fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        return proximal_refits(
            fits, train, removed, self.damping, bregman=False, tolerance=self.tolerance, progress=progress
        )


@dataclass(frozen=True)
class ProximalBregman(RetrainingProtocol):
    """The proximal Bregman response function (PBRF), what damped Gauss-Newton influence linearises (Bae et al. 2022).

    Attributes:
        damping: A number for that multiple of the identity, or a `Damping`.
        tolerance: Gradient norm at which a refit is done.
    """

    damping: float | Damping
    tolerance: float = 1e-8
    name = "pbrf"

    def refit(
        self, fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        return proximal_refits(
            fits, train, removed, self.damping, bregman=True, tolerance=self.tolerance, progress=progress
        )


@dataclass(frozen=True)
class LinearResponse(RetrainingProtocol):
    """No refit but its prediction: one step of damped Gauss-Newton influence from the fit, solved directly.

    Attributes:
        damping: A number for that multiple of the identity, or a `Damping`.
    """

    damping: float | Damping
    name = "linear"

    def refit(
        self, fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        return linear_response(fits, train, removed, self.damping)
