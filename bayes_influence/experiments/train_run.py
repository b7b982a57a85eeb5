"""Training runs: a network, a scheme and a data set in a folder of their own, continued where they were stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayes_influence.data.dataset import Split
from bayes_influence.data.images import IMAGE_SETS, load_images
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import TABLES, hold_out, load_table
from bayes_influence.experiments.store import StudyFolder
from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import initial_params
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.resnet import ResNet
from bayes_influence.models.vgg import CONVOLUTIONS, VGG
from bayes_influence.objectives.expected_likelihoods import (
    ExtendedVI,
    JensenCategorical,
    SobolCategorical,
    TaylorCategorical,
    TiltedCategorical,
)
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.training.checkpoints import CheckpointError, encode_checkpoint, matching_state
from bayes_influence.training.minibatch import Trained, TrainingState, train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import OPTIMISERS
from bayes_influence.training.priors import PRIORS, RELATIVE_SIGMA, network_at
from bayes_influence.training.schemes import Deterministic, Scheme, Variational, find_schemes

CHECKPOINT = "checkpoint.safetensors"
SPLIT_SEED = 0
"""Of the test part of tables: the same for every run, so that runs can be compared."""

LIKELIHOODS: dict[str, Likelihood] = {
    "tilted": TiltedCategorical(),
    "sobol": SobolCategorical(),
    "taylor": TaylorCategorical(),
    "jensen": JensenCategorical(),
    "evi": ExtendedVI(),
}
"""Expected log-likelihoods of Bayesian networks by name."""

NETWORKS = ("mlp", "lenet", "resnet", *(f"vgg{depth}" for depth in CONVOLUTIONS))


@dataclass(frozen=True)
class TrainRun:
    """Everything that a training run depends on.

    Attributes:
        dataset: A key of `TABLES` or `IMAGE_SETS`.
        network: One of `NETWORKS`.
        scheme: A key of `SCHEMES`.
        seeds: One network each: of its initial parameters, its order of examples, its dropout masks.
        epochs: Passes over the training examples.
        batch_size: Examples in a batch, at most.
        learning_rate: At its highest.
        optimiser: A key of `OPTIMISERS`.
        decay: Of the learning rate, see `MinibatchSchedule`.
        annealing: Fraction of the steps over which the regulariser's weight rises to its own.
        clip: Longest gradient that is followed at its length.
        width: Units of an MLP's hidden layers, or channels of a residual network's first stage.
        depth: Hidden layers of an MLP.
        activation: A key of `ACTIVATIONS`; the network's usual one when not given.
        weight_decay: lambda, of schemes that have it; the scheme's own when not given.
        prior_scale: Of Bayesian networks, see `prior_scales`.
        prior: `"isotropic"` or `"fan-in"`.
        likelihood: Of Bayesian networks, a key of `LIKELIHOODS`; the scheme's own when not given.
        method: How moments pass activations, see `to_bayesian`.
        initial_sigma: sigma sqrt(fan-in) of a Bayesian network at the start. Adam moves log sigma by the learning rate
            per step at most, so a short training needs a start not far below the prior's scale.
        warm_start: Folder of another run of the same network whose parameters this one starts from.
        train_examples: How many of the training examples are used, the first ones; all when not given.
        dtype: `"float32"` or `"float64"`.
        device: Where it is trained.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    dataset: str = "mnist"
    network: str = "lenet"
    scheme: str = "bnn"
    seeds: tuple[int, ...] = (0,)
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimiser: str = "adam"
    decay: str = "cosine"
    annealing: float = 0.0
    clip: float | None = None
    width: int = 32
    depth: int = 1
    activation: str | None = None
    weight_decay: float | None = None
    prior_scale: float = 1.0
    prior: str = "isotropic"
    likelihood: str | None = None
    method: str = "first-order"
    initial_sigma: float | None = None
    warm_start: str | None = None
    train_examples: int | None = None
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        choices: dict[str, Sequence[str]] = {
            "dataset": (*TABLES, *IMAGE_SETS),
            "network": NETWORKS,
            "optimiser": tuple(OPTIMISERS),
            "prior": PRIORS,
            "dtype": ("float32", "float64"),
        }
        if self.likelihood is not None:
            choices["likelihood"] = tuple(LIKELIHOODS)
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers from 0 on, got {self.seeds}")
        if self.train_examples is not None and self.train_examples < 1:
            raise ValueError(f"train_examples must be at least 1, got {self.train_examples}")
        if self.activation is not None:
            activation_module(self.activation)
        find_schemes([self.scheme])
        self.schedule()
        torch.device(self.device)

    def to_config(self) -> dict[str, Any]:
        """Everything needed to repeat the run, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TrainRun:
        """The inverse of `to_config`, also after JSON."""
        return cls(**{**config, "seeds": tuple(config["seeds"])})

    def schedule(self) -> MinibatchSchedule:
        """Epochs, batches and learning rates."""
        return MinibatchSchedule(
            self.epochs,
            self.batch_size,
            self.learning_rate,
            OPTIMISERS[self.optimiser],
            self.decay,
            annealing=self.annealing,
            clip=self.clip,
        )

    def resolved_scheme(self) -> Scheme:
        """The scheme with this run's weight decay, prior and likelihood."""
        (scheme,) = find_schemes([self.scheme])
        if isinstance(scheme, Deterministic) and self.weight_decay is not None:
            return replace(scheme, decay=self.weight_decay)
        if isinstance(scheme, Variational):
            likelihood = scheme.likelihood if self.likelihood is None else LIKELIHOODS[self.likelihood]
            start = None if self.warm_start is None else RELATIVE_SIGMA
            return replace(
                scheme,
                likelihood=likelihood,
                prior_scale=self.prior_scale,
                prior=self.prior,
                method=self.method,
                initial_sigma=self.initial_sigma,
                relative_sigma=start,
            )
        return scheme

    def split(self, data_folder: str | Path | None = None) -> Split:
        """Training and test examples, standardised on the former: tables by feature, images by channel.

        Args:
            data_folder: Where image sets are kept, see `load_images`.
        """
        dtype = getattr(torch, self.dtype)
        if self.dataset in TABLES:
            split = hold_out(load_table(self.dataset, dtype), seed=SPLIT_SEED)
        else:
            split = load_images(self.dataset, data_folder, standardised=False, dtype=dtype)
            split = Split(*standardise(split.train, split.test, by="channel"))
        train = split.train
        if self.train_examples is not None:
            train = train.select(range(min(self.train_examples, len(train))))
        return Split(train.to(self.device), split.test.to(self.device))

    def make_network(self, input_shape: Sequence[int], n_outputs: int) -> nn.Module:
        """The deterministic network for inputs of this shape, its parameters drawn from the global generator."""
        options: dict[str, Any] = {} if self.activation is None else {"activation": self.activation}
        shape = tuple(input_shape)
        if self.network == "mlp":
            return MLP(shape[0] if len(shape) == 1 else shape, n_outputs, self.width, self.depth, **options)
        if len(shape) != 3:
            raise ValueError(
                f"{self.network} takes images (channels, height, width), but the inputs of {self.dataset} have shape "
                f"{shape}; choose network='mlp'"
            )
        if self.network == "lenet":
            return LeNet(n_outputs, shape, **options)
        if self.network == "resnet":
            return ResNet(n_outputs, shape, width=self.width, **options)
        return VGG(int(self.network.removeprefix("vgg")), n_outputs, shape, **options)


def run_training(
    run: TrainRun,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    progress: bool = True,
) -> tuple[Trained, Split]:
    """Trains a run in its folder: `config.json`, and after every epoch `checkpoint.safetensors`, written whole.

    The same call on the same folder continues after the last finished epoch, and ends with the same bits as a run that
    was never stopped.

    Args:
        run: What to train.
        out: The run's folder; created, or continued if it holds the same run.
        data_folder: Where image sets are kept.
        progress: Whether to show a progress bar with loss, accuracy and time left.

    Returns:
        The trained networks, and the data.

    Raises:
        ValueError: If the folder belongs to another run, or its checkpoint is damaged.
        NonFiniteTrainingError: Naming scheme, seed and step.
    """
    folder = StudyFolder(out, {"study": "train", **run.to_config()})
    split = run.split(data_folder)
    objective, start = _starting_point(run, split, data_folder)
    return _trained(run, folder, objective, start, split, progress), split


def load_run(
    folder: str | Path, *, index: int = 0, data_folder: str | Path | None = None
) -> tuple[Objective, Split, dict[str, Any]]:
    """A finished run: the objective at its parameters, the data it was trained and tested on, its configuration.

    Args:
        folder: Of the run.
        index: Which of its seeds.
        data_folder: Where image sets are kept.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, or has no such seed.
    """
    trained, split, config = load_trained(folder, data_folder=data_folder)
    members = len(trained.values[0])
    if not 0 <= index < members:
        raise ValueError(f"the run has the seeds {config['seeds']}: index must lie in 0..{members - 1}, got {index}")
    return trained.at(index), split, config


def load_trained(folder: str | Path, *, data_folder: str | Path | None = None) -> tuple[Trained, Split, dict[str, Any]]:
    """All networks of a finished run, with its data and configuration.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If it holds something else, or the run is not finished.
    """
    study = StudyFolder.open(folder)
    config = {name: value for name, value in study.config.items() if name != "study"}
    if study.config.get("study") != "train":
        raise ValueError(f"{folder} holds a study of another kind ({study.config.get('study')}), not a training run")
    run = TrainRun.from_config(config)
    state = _stored_state(study, run)
    if state is None or int(state["epoch"]) < run.epochs:
        done = 0 if state is None else int(state["epoch"])
        raise ValueError(f"the run in {folder} has finished {done} of {run.epochs} epochs; train it to its end first")
    split = run.split(data_folder)
    objective, start = _starting_point(run, split, data_folder)
    return _trained(run, study, objective, start, split, progress=False), split, config


def _starting_point(run: TrainRun, split: Split, data_folder: str | Path | None) -> tuple[Objective, Params]:
    """The objective, and the stacked parameters that its training starts from."""
    scheme = run.resolved_scheme()
    split.train.check_classes()
    shape, n_outputs = split.train.inputs.shape[1:], split.train.n_classes
    make: Callable[[], nn.Module] = lambda: run.make_network(shape, n_outputs)  # noqa: E731
    if run.warm_start is not None:
        start, _, _ = load_run(run.warm_start, data_folder=data_folder)
        network = network_at(start)
        make = lambda: network  # noqa: E731
    dtype = split.train.inputs.dtype
    params = initial_params(lambda: scheme.prepare(make()), run.seeds, dtype=dtype, device=run.device)
    network = scheme.prepare(make()).to(dtype=dtype, device=run.device)
    return scheme.objective(network, len(split.train)), params


def _trained(
    run: TrainRun, folder: StudyFolder, objective: Objective, start: Params, split: Split, progress: bool
) -> Trained:
    scheme, config = run.resolved_scheme(), run.to_config()

    def store(state: TrainingState) -> None:
        folder.write_file(CHECKPOINT, encode_checkpoint(state, config))

    return train_minibatches(
        objective,
        start,
        split.train,
        run.schedule(),
        run.seeds,
        averaging=scheme.averaging,
        step=scheme.step(objective, len(split.train)),
        labels=[f"{scheme.name}, seed {seed}" for seed in run.seeds],
        state=_stored_state(folder, run),
        on_epoch=store,
        progress=progress,
    )


def _stored_state(folder: StudyFolder, run: TrainRun) -> TrainingState | None:
    """The state in the folder's checkpoint, None if there is none."""
    path = folder.path / CHECKPOINT
    if not path.exists():
        return None
    try:
        return matching_state(path.read_bytes(), run.to_config())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
