"""What figure 2 is asked for: its networks with their published numbers, its scales, and its cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.experiments.papers.fragility.choices import MODES
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.experiments.training.settings import TrainRun

WEIGHT_DECAY = 1e-3
"""As published."""

BATCH_SIZE = 1024
"""As published for the larger networks."""

LEARNING_RATE = 1e-3
"""As published; Bayesian networks of this library learn at their own."""

BAYESIAN = {"method": "first-order", "structure": "diagonal"}
"""Moments of Bayesian networks, as the documented runs had them."""


@dataclass(frozen=True)
class ImageNetwork:
    """One network of the figure.

    Attributes:
        label: What it is called in tables and on the axis.
        dataset: A key of `CATALOGUE`.
        network: A key of `NETWORKS` in `training.settings`.
        scheme: "weight-decay" or "bnn".
        width: Of a multi-layer perceptron.
        published: What the authors' stored outputs come to at the test example of largest loss, |Spearman| and signed.
    """

    label: str
    dataset: str
    network: str
    scheme: str = "weight-decay"
    width: int | None = None
    published: tuple[float, float] | None = None

    @property
    def small(self) -> bool:
        """Whether the published code treats it as the small network: LiSSA summed, the sign opposite."""
        return self.network == "mlp"

    @property
    def slow(self) -> bool:
        """Whether the published code refits it at a rate that moves nothing."""
        return self.network == "lenet" and self.dataset == "mnist"


NETWORKS = {
    one.label: one
    for one in (
        *(ImageNetwork(f"digits FC-{width}", "digits", "mlp", width=width) for width in (8, 32)),
        ImageNetwork("digits FC-8 BNN", "digits", "mlp", "bnn", width=8),
        ImageNetwork("MNIST FC-8", "mnist", "mlp", width=8, published=(0.745, -0.745)),
        ImageNetwork("MNIST FC-16", "mnist", "mlp", width=16, published=(0.738, -0.738)),
        ImageNetwork("MNIST FC-32", "mnist", "mlp", width=32, published=(0.798, -0.798)),
        ImageNetwork("MNIST FC-64", "mnist", "mlp", width=64, published=(0.813, -0.813)),
        ImageNetwork("MNIST FC-128", "mnist", "mlp", width=128, published=(0.808, -0.808)),
        ImageNetwork("MNIST LeNet", "mnist", "lenet", published=(0.098, -0.010)),
        ImageNetwork("MNIST LeNet BNN", "mnist", "lenet", "bnn", published=(0.078, -0.035)),
        ImageNetwork("CIFAR-10 LeNet", "cifar10", "lenet", published=(0.104, 0.009)),
        ImageNetwork("CIFAR-10 LeNet BNN", "cifar10", "lenet", "bnn", published=(0.133, 0.084)),
        ImageNetwork("CIFAR-10 VGG13", "cifar10", "vgg13", published=(0.127, -0.102)),
    )
}
"""By label. The published numbers are means over the runs in `*/results/` of github.com/jrepifano/xai_is_fragile."""


@dataclass(frozen=True)
class ImageScale:
    """How large the figure is where nothing else is said.

    Attributes:
        networks: Keys of `NETWORKS`.
        repeats: Seeds.
        epochs: Passes of training.
        refit_epochs: Steps of a refit by training.
        train_examples: The first so many training images; all when None.
    """

    networks: tuple[str, ...]
    repeats: int
    epochs: int
    refit_epochs: int
    train_examples: int | None = None


SCALES = {
    "quick": ImageScale(("digits FC-8", "digits FC-32", "digits FC-8 BNN"), 2, 5, 50),
    "medium": ImageScale(("MNIST FC-128", "MNIST LeNet", "CIFAR-10 LeNet"), 3, 6, 200, 10_000),
    "full": ImageScale(tuple(name for name in NETWORKS if not name.startswith("digits")), 10, 30, 2000),
}
"""By name. Quick stands on scikit-learn's digits, so that it needs no file; full is for an accelerator."""


@dataclass(frozen=True)
class ImageStudy(Settings):
    """Figure 2: influence of all training images in the last layer, the 40 largest removed one at a time.

    Attributes:
        mode: "corrected", or "as-published": the published code's choices, defects included.
        scale: "quick", "medium" or "full": which networks, how many seeds, passes and images.
        networks: Keys of `NETWORKS`; the scale's when not given.
        repeats: Seeds; the scale's when not given.
        epochs: Passes of training; the scale's when not given.
        refit_epochs: Full-batch steps of a refit by training, which the corrected mode has none of.
        train_examples: The first so many training images; the scale's when not given.
        batch_size: Images in a batch.
        learning_rate: Of the deterministic networks' training.
        removals: Training images of largest |influence|, removed one at a time.
        seed: The first seed.
        data_folder: Where image sets are kept.
        device: Where networks are trained.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    mode: str = "corrected"
    scale: str = "medium"
    networks: tuple[str, ...] = ()
    repeats: int | None = None
    epochs: int | None = None
    refit_epochs: int | None = None
    train_examples: int | None = None
    batch_size: int = BATCH_SIZE
    learning_rate: float = LEARNING_RATE
    removals: int = 40
    seed: int = 0
    data_folder: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.check_known(mode=MODES, scale=SCALES)
        self.check_at_least(
            repeats=1, epochs=1, refit_epochs=1, train_examples=1, batch_size=1, removals=MIN_POINTS, seed=0
        )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        unknown = [name for name in self.networks if name not in NETWORKS]
        if unknown:
            raise ValueError(f"unknown network {unknown[0]!r}; known: {', '.join(NETWORKS)}")

    @property
    def size(self) -> ImageScale:
        """The scale that was asked for."""
        return SCALES[self.scale]

    def said(self) -> ImageScale:
        """The scale with what was said instead."""
        names = ("networks", "repeats", "epochs", "refit_epochs", "train_examples")
        return replace(self.size, **{name: getattr(self, name) or getattr(self.size, name) for name in names})

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to; networks and seeds may be added to it."""
        said = self.said()
        own = {"study": "fragility images"}
        own |= {name: getattr(self, name) for name in ("mode", "removals", "batch_size", "learning_rate")}
        return own | {name: getattr(said, name) for name in ("epochs", "refit_epochs", "train_examples")}

    def jobs(self, n_jobs: int | None) -> int | None:
        """Cells at once: one where nothing is said on an accelerator, whose memory they would share."""
        return 1 if n_jobs is None and self.device != "cpu" else n_jobs

    def cells(self) -> dict[str, ImageCell]:
        """One cell per network and seed."""
        said = self.said()
        return {
            cell_key(network=name.replace(" ", "_"), seed=seed): ImageCell(
                NETWORKS[name],
                seed,
                self.mode,
                self.removals,
                said.epochs,
                said.refit_epochs,
                said.train_examples,
                self.batch_size,
                self.learning_rate,
            )
            for name in said.networks
            for seed in range(self.seed, self.seed + said.repeats)
        }


@dataclass(frozen=True)
class ImageCell:
    """One network from one seed.

    Attributes:
        network: Which.
        seed: Of its initialisation and batches.
        mode: As of the study.
        removals: Images removed one at a time.
        epochs: Passes of training.
        refit_epochs: Steps of a refit by training.
        train_examples: The first so many training images; all when None.
        batch_size: Images in a batch.
        learning_rate: Of deterministic networks.
    """

    network: ImageNetwork
    seed: int
    mode: str
    removals: int
    epochs: int
    refit_epochs: int
    train_examples: int | None
    batch_size: int = BATCH_SIZE
    learning_rate: float = LEARNING_RATE

    def run(self, device: str = "cpu") -> TrainRun:
        """How it is trained."""
        own = self.network
        bayesian = own.scheme == "bnn"
        return TrainRun(
            dataset=own.dataset,
            network=own.network,
            scheme=own.scheme,
            seeds=(self.seed,),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=None if bayesian else self.learning_rate,
            scheme_options=BAYESIAN if bayesian else {"weight_decay": WEIGHT_DECAY},
            width=own.width,
            activation="relu" if own.small else None,
            train_examples=self.train_examples,
            device=device,
        )
