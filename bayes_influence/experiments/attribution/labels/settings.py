"""What a search for wrong labels is asked, and the data and network that it is made on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.tables import Rows
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.experiments.training.of_network import NETWORKS, OfNetwork
from bayes_influence.experiments.training.settings import usual_scheme_options
from bayes_influence.models.lenet import SIDES
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import SCHEMES, Deterministic, find_schemes

SHOWN_MOST = 2000
"""Rows that are listed with evidence, at most: a page of so many is still one that a browser turns without lag."""

DECAY = 0.01
"""Weight decay around which the search looks for the one whose networks predict held-out labels best."""

STRENGTHS = (0.3, 1.0, 3.0)
"""Times which it is tried."""

STEPS, LEARNING_RATE = 200, 0.02
"""Of a training on all rows at once. On the tables of `benchmarks/label_errors.py` held-out predictions are at their
best then."""

NETWORK = {"width": 32, "activation": "relu"}
"""Of the MLP that is trained where none is given: the one that the rates of `benchmarks/label_errors.py` were measured
with. Influence is taken in its last layer, where its kinks are in nobody's way."""

OF_IMAGES = {"activation": "relu"}
"""Of the LeNet that is trained on images of its sizes where no network is given. Of 3 000 images of MNIST,
Fashion-MNIST and CIFAR-10 with 10 % wrong labels it ranks the wrong ones with an average precision of .98, .87 and .37,
one of tanh with .95, .86 and .27, and the MLP with .89, .82 and .22."""

USUAL = "usual"
"""What stands for the network of data of that kind until it is known."""

LARGEST_BATCH = 20_000
"""Rows of a table up to which all are trained on at once."""

IN_MINIBATCHES = Deterministic("weight-decay-0.001", weight_decay=0.001)
"""How networks that are trained in minibatches are regularised."""

MINIBATCH_RATE = 0.005
"""Their learning rate at its highest. On 3 000 images of MNIST, LeNet after ten passes predicts 96 % of the digits with
these two, 91 % at the usual 0.002; on a table of 10 000 rows the wrong labels are ranked with an average precision of
.97, and of .91."""

MINIBATCH, MINIBATCH_STEPS = 64, 500
"""Examples in a batch where nothing says how many, and steps that a training takes then, at least; ten passes are
made at least, and three hundred at most. On 3 000 images of MNIST with 2 % wrong labels twice as many learn those."""


@dataclass(frozen=True)
class LabelSettings(Settings):
    """How wrong labels are searched for.

    Attributes:
        level: Highest expected share of right labels among those that are flagged.
        folds: Parts of the data, each predicted by networks that were trained on the others.
        seeds: Networks per fold.
        listed: Most suspicious rows that are listed with evidence, at least; all flagged rows are, up to
            `SHOWN_MOST`.
        evidence: Training rows that argue for a label, and against it.

    Raises:
        ValueError: If a number is out of range.
    """

    level: float = 0.1
    folds: int = 5
    seeds: tuple[int, ...] = (0, 1, 2)
    listed: int = 100
    evidence: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.level < 1:
            raise ValueError(f"the level of a false-discovery rate lies between 0 and 1, got {self.level}")
        self.check_at_least(folds=2, listed=1, evidence=0)
        if self.listed > SHOWN_MOST:
            raise ValueError(f"at most {SHOWN_MOST} rows are listed with evidence, got listed={self.listed}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers from 0 on, got {self.seeds}")


@dataclass(frozen=True)
class LabelData(OfNetwork):
    """Data whose labels are searched, and the networks that do it.

    Attributes:
        network: LeNet on images of its sizes, an MLP on other data, when not given.
        scheme: A key of `SCHEMES`; weight decay, of the strength that predicts held-out labels best, when not given.
        epochs: Passes over the data; 200 steps on all rows at once, of images and with a network of one's own as
            `in_minibatches` has them, or the data set's own number, when not given.
        batch_size: Examples in a batch; all of a table, of images and with a network of one's own 64, or the data
            set's own, when not given.
        learning_rate: At its highest; 0.02 on all rows at once, else 0.005.
        data_folder: Where image sets are kept; no part of what makes two searches the same.

    Raises:
        ValueError: If a setting is unknown or out of range, or the data are no classification.
    """

    network: str = USUAL
    scheme: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    data_folder: str | None = None

    def __post_init__(self) -> None:
        if self.network == USUAL:
            object.__setattr__(self, "network", _usual_network(self.known().image_shape))
        super().__post_init__()
        self.check_known(scheme=SCHEMES)
        self.check_at_least(epochs=1, batch_size=1)
        if (task := self.known().task) != "classification":
            kind = "real numbers" if task == "regression" else "several labels of 0 and 1"
            raise ValueError(
                f"{self.data_name}: wrong labels are searched where every example has one class, but {kind} are "
                "predicted here; say task='classification' (--task) if whole numbers stand for classes"
            )

    def usual_shape(self) -> dict[str, Any]:
        """As of all networks; an MLP is that of `NETWORK`, a LeNet that of `OF_IMAGES`."""
        own: dict[str, dict[str, Any]] = {"mlp": NETWORK, "lenet": OF_IMAGES}
        return super().usual_shape() | own.get(self.network, {})

    def examples(self) -> Dataset:
        """All examples, standardised."""
        known = self.known()
        dtype = torch.float64 if isinstance(known, Rows) else torch.float32
        return known.all_examples(dtype, self.data_folder).to(self.device)

    def at_once(self, examples: int) -> bool:
        """Whether all of so many examples are trained on at once: rows, in a network that is none of one's own."""
        known = self.known()
        flat = isinstance(known, Rows) and known.image_shape is None and self.network in NETWORKS
        return flat and self.batch_size is None and examples <= LARGEST_BATCH

    def schedule(self, examples: int) -> Schedule | MinibatchSchedule:
        """Of each training.

        Args:
            examples: That there are.
        """
        if self.at_once(examples):
            return Schedule(self.epochs or STEPS, self.learning_rate or LEARNING_RATE)
        known = self.known()
        own = self.network not in NETWORKS
        usual = in_minibatches(examples) if own or known.image_shape is not None else known
        size, rate = self.batch_size or usual.batch_size, self.learning_rate or MINIBATCH_RATE
        return MinibatchSchedule(self.epochs or usual.epochs, size, rate, decay="cosine")

    def schemes(self, examples: int) -> list[Scheme]:
        """That are tried; one where it is named, or where trainings are in minibatches.

        Args:
            examples: That there are.
        """
        if self.scheme is not None:
            usual = usual_scheme_options(self.usual_moments)
            return find_schemes([self.scheme], SCHEMES[self.scheme].own(usual))
        return strengths() if self.at_once(examples) else [IN_MINIBATCHES]

    def to_config(self) -> dict[str, Any]:
        """Everything needed to repeat the search, as JSON can hold it; what was left unsaid is said."""
        found = self.said_shape() | self.found_data() | {"code": self.found_code()}
        config = super(LabelData, replace(self, **found)).to_config()
        return {name: value for name, value in config.items() if name != "data_folder"}


def _usual_network(shape: tuple[int, int, int] | None) -> str:
    """The network of data where none is given.

    Args:
        shape: Of the images that they are; None where they are none.
    """
    return "lenet" if shape is not None and shape[1:] in {(side, side) for side in SIDES} else "mlp"


def strengths() -> list[Scheme]:
    """Weight decay at each of `STRENGTHS`: schemes that share an ensemble."""
    return [
        Deterministic(f"weight-decay-{DECAY * strength:g}", weight_decay=DECAY, regulariser_weight=strength)
        for strength in STRENGTHS
    ]


def in_minibatches(examples: int) -> MinibatchSchedule:
    """How networks are trained on so many examples that nothing else says it of."""
    passes = min(300, max(10, -(-MINIBATCH_STEPS * MINIBATCH // examples)))
    return MinibatchSchedule(passes, MINIBATCH, MINIBATCH_RATE, decay="cosine")
