"""Settings of a training run: data, network, scheme and schedule, and what they are when nothing is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from bayes_influence.data.dataset import Split
from bayes_influence.experiments.training.of_network import OfNetwork
from bayes_influence.training.ivon import IVON
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import OPTIMISERS
from bayes_influence.training.priors import RELATIVE_SIGMA
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import SCHEMES, find_schemes

LEARNING_RATE = 2e-3
"""Of deterministic networks."""

BAYESIAN_LEARNING_RATE = 5e-3
"""Of Bayesian networks. Adam moves log sigma by the learning rate per step at most, and it has units to go."""

INITIAL_SIGMA = 0.2
"""sigma sqrt(fan-in) at the start of a Bayesian network when nothing is said: from a smaller one the KL, which only log
sigma's slow way to the prior's scale takes down, dominates a training of a few epochs."""


LATER_OPTIONS = {"structure": "diagonal"}
"""Options of schemes that runs of earlier versions do not say, and what these were trained with."""


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A run's stored configuration, and what it was trained with before that could be chosen."""
    known = SCHEMES[config["scheme"]].options if config.get("scheme") in SCHEMES else {}
    later = {name: value for name, value in LATER_OPTIONS.items() if name in known}
    return config | {"scheme_options": later | config["scheme_options"]} if later else config


def usual_scheme_options(moments: Mapping[str, str]) -> dict[str, Any]:
    """Numbers and words of a scheme that a training in minibatches has others of when nothing is said.

    The prior is by fan-in where `usual_moments` has moments, for images and convolutions; N(0, 1) for the few columns
    of a table: there the test loss of a Bayesian MLP is the lower one under it, on each of Iris, Wine, breast cancer,
    the digits and a regression.

    Args:
        moments: What `usual_moments` says of the network and its data.
    """
    prior = "fan-in" if moments else "isotropic"
    return {"prior": prior, "initial_sigma": INITIAL_SIGMA, **moments}


def usual_rate(bayesian: bool) -> float:
    """The learning rate at its highest when nothing is said."""
    return BAYESIAN_LEARNING_RATE if bayesian else LEARNING_RATE


@dataclass(frozen=True)
class TrainRun(OfNetwork):
    """Everything that a training run depends on.

    Attributes:
        scheme: A key of `SCHEMES`.
        seeds: One network each: of its initial parameters, its order of examples, its dropout masks.
        epochs: Passes over the training examples; the data set's own when not given.
        batch_size: Examples in a batch, at most; the data set's own when not given.
        learning_rate: At its highest; 0.002, and 0.005 for Bayesian networks, when not given.
        optimiser: A key of `OPTIMISERS`.
        decay: Of the learning rate, see `MinibatchSchedule`.
        annealing: Fraction of the steps over which the regulariser's weight rises to its own.
        clip: Longest gradient that is followed at its length.
        scheme_options: Numbers and words of the scheme that are to be others than its own, by field; of Bayesian
            networks the prior, sigma at the start, and of networks of images method and structure, are those of
            `usual_scheme_options` when nothing is said.
        warm_start: Folder of another run of the same network whose parameters this one starts from; sigma then starts
            at `RELATIVE_SIGMA` |w| instead.
        train_examples: How many of the training examples are used, the first ones; all when not given.
        dtype: `"float32"` or `"float64"`.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    dataset: str = "mnist"
    network: str = "lenet"
    scheme: str = "bnn"
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimiser: str = "adam"
    decay: str = "cosine"
    annealing: float = 0.0
    clip: float | None = None
    scheme_options: dict[str, Any] = field(default_factory=dict)
    warm_start: str | None = None
    train_examples: int | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_known(
            optimiser=OPTIMISERS,
            dtype=("float32", "float64"),
        )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers from 0 on, got {self.seeds}")
        self.check_at_least(train_examples=1)
        if isinstance(self.schedule().optimiser, IVON) and self.optimiser != "adam":
            raise ValueError(
                f"the scheme {self.scheme} has an optimiser of its own, got optimiser {self.optimiser!r}; leave it out"
            )

    def _said(self) -> dict[str, Any]:
        """Schedule and sizes as they were said or, left unsaid, as data, network and scheme have them."""
        bayesian, known = self.resolved_scheme().bayesian, self.known()
        defaults = {
            "epochs": known.epochs,
            "batch_size": known.batch_size,
            "learning_rate": usual_rate(bayesian),
        }
        said = {name: getattr(self, name) for name in defaults}
        schedule = {name: default if said[name] is None else said[name] for name, default in defaults.items()}
        return schedule | self.said_shape()

    def resolved(self) -> TrainRun:
        """The same run with nothing left unsaid about its schedule, its network's size and its scheme's numbers."""
        options = self.resolved_scheme().options
        numbers = {name: value for name, value in options.items() if isinstance(value, int | float | str)}
        found = self._said() | self.found_data() | {"code": self.found_code()}
        return replace(self, **found, scheme_options=numbers | self.scheme_options)

    def to_config(self) -> dict[str, Any]:
        """Everything needed to repeat the run, as JSON can hold it; what was left unsaid is said."""
        return asdict(self.resolved())

    def schedule(self) -> MinibatchSchedule:
        """Epochs, batches and learning rates."""
        said = self._said()
        schedule = MinibatchSchedule(
            said["epochs"],
            said["batch_size"],
            said["learning_rate"],
            OPTIMISERS[self.optimiser],
            self.decay,
            annealing=self.annealing,
            clip=self.clip,
        )
        return self.resolved_scheme().scheduled(schedule)

    def resolved_scheme(self) -> Scheme:
        """The scheme with this run's numbers."""
        (scheme,) = find_schemes([self.scheme])
        known = self.known()
        usual = usual_scheme_options(self.usual_moments)
        usual = usual if self.warm_start is None else usual | {"relative_sigma": RELATIVE_SIGMA}
        found = find_schemes([self.scheme], scheme.own(usual) | self.scheme_options)[0]
        return found if known.task == "classification" else found.suited(known.task, known.n_targets)

    def split(self, data_folder: str | Path | None = None) -> Split:
        """Training and test examples, standardised on the former: tables by feature, images by channel.

        Args:
            data_folder: Where data sets are kept, see `Source.contents`.

        Raises:
            ValueError: If there are fewer training examples than are to be used.
        """
        split = self.known().split(getattr(torch, self.dtype), data_folder)
        train = split.train
        if self.train_examples is not None:
            if self.train_examples > len(train):
                raise ValueError(
                    f"train_examples must lie in 1..{len(train)}, the number of training examples of {self.dataset}, "
                    f"got {self.train_examples}; leave it out to use all"
                )
            train = train.select(range(self.train_examples))
        return Split(train.to(self.device), split.test.to(self.device))
