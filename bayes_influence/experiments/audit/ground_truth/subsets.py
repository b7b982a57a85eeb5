"""Networks retrained on random subsets: the truth of the linear datamodelling score, computed once for all methods."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.evaluation.lds import MIN_SUBSETS
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.fingerprint import described, fingerprint_of_builder, identity_of_members
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import losses_after

SUBSETS_PER_CELL = 10
"""Subsets that are retrained and stored together: what a kill can lose."""


@dataclass(frozen=True, eq=False)
class SubsetLosses:
    """Test losses of networks that were trained on subsets; what `evaluation.lds.lds` takes.

    The score of a method is `lds(found.masks, -removal_effects, found.losses)`: having an example in the training set
    changes the loss by minus what its removal does.

    Attributes:
        masks: (m, n) whether subset j holds training example i, in the training set's order.
        losses: (S, m, t) test losses after training on subset j from seed s.
        unconverged: Retrainings that did not reach their gradient norm, of those that were asked for one.
    """

    masks: Bool[np.ndarray, "m n"]
    losses: Float[np.ndarray, "S m t"]
    unconverged: int


@dataclass(frozen=True, eq=False)
class _SubsetJob:
    members: Members
    train: Dataset
    test: Dataset
    protocol: RetrainingProtocol
    masks: Bool[np.ndarray, "k n"]


def random_subsets(n_train: int, count: int, fraction: float = 0.5, seed: int = 0) -> Bool[np.ndarray, "m n"]:
    """Masks of random subsets of one size, drawn without replacement; the first ones do not depend on `count`.

    Args:
        n_train: n.
        count: m.
        fraction: Size of every subset as a share of n.
        seed: The same seed gives the same subsets.

    Raises:
        ValueError: If there are too few subsets for a correlation, or a subset would be empty or everything.
    """
    size = round(fraction * n_train)
    if count < MIN_SUBSETS:
        raise ValueError(f"a correlation over subsets needs at least {MIN_SUBSETS} of them, got {count}")
    if not 1 <= size < n_train:
        raise ValueError(f"a subset must hold some but not all of {n_train} examples, got a fraction of {fraction}")
    generator = np.random.default_rng(seed)
    order = np.stack([generator.permutation(n_train) for _ in range(count)])
    return order < size


def retrain_on_subsets(
    trained: Trained,
    train: Dataset,
    test: Dataset,
    protocol: RetrainingProtocol,
    folder: str | Path,
    *,
    n_subsets: int = 100,
    fraction: float = 0.5,
    seed: int = 0,
    n_jobs: int | None = None,
    progress: bool = True,
) -> SubsetLosses:
    """Trains every seed on every subset, stores the test losses, and reads back what is stored already.

    A subset is a removal of all other examples, renormalised: the mean runs over the subset. Any protocol serves:
    `FromScratch` for whole networks, `Minimum` for a convex last layer.

    Args:
        trained: E networks: their objective, seeds and selected parameters are those of the retrainings.
        train: Their training examples.
        test: Test examples.
        protocol: How networks are retrained.
        folder: Where the losses are kept for the next method, and for the same call after a kill.
        n_subsets: m.
        fraction: Size of every subset as a share of n.
        seed: Of the subsets.
        n_jobs: Cells of 10 subsets at once; as many as there are cores, when not given.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are too few subsets, or the folder belongs to other networks, data, subsets or protocol.
        FailedCellsError: If a retraining failed, after all others were stored.
    """
    members = Members.of(trained)
    masks = random_subsets(len(train), n_subsets, fraction, seed)
    # The number of subsets is not part of it: more can be added later.
    config = {
        "study": "subsets",
        "protocol": protocol_config(protocol),
        "fraction": fraction,
        "seed": seed,
        "labels": list(members.labels),
        "seeds": list(members.seeds),
        "fingerprint": fingerprint(networks=identity_of_members(members), train=train, test=test),
    }
    store = StudyFolder(folder, config)
    cells = {}
    for start in range(0, n_subsets, SUBSETS_PER_CELL):
        block = masks[start : start + SUBSETS_PER_CELL]
        cells[cell_key(first=start, count=len(block))] = _SubsetJob(members, train, test, protocol, block)
    run_cells(cells, _retrain, store, n_jobs=n_jobs, progress=progress)
    loaded = [store.load_cell(key).arrays for key in cells]
    return SubsetLosses(
        masks=masks,
        losses=np.concatenate([np.asarray(cell["losses"]) for cell in loaded], axis=1),
        unconverged=sum(int(np.asarray(cell["unconverged"])) for cell in loaded),
    )


def _retrain(job: _SubsetJob) -> CellResult:
    outside = [job.train.ids[~torch.from_numpy(mask)] for mask in job.masks]
    removals = Removals.of_groups(outside, len(job.members), "renormalised")
    refits = job.protocol.refit(job.members, job.train, removals)
    losses = losses_after(refits, job.test)[:, 1:]
    missed = 0 if job.protocol.tolerance is None else int((~refits.converged[:, 1:]).sum())
    return CellResult(arrays={"losses": losses, "unconverged": np.array(missed)})


def protocol_config(protocol: RetrainingProtocol) -> dict[str, Any]:
    """A protocol's name and settings, as JSON can hold them, numbers as such and what else there is by its fingerprint.

    A network's builder counts by the network that it builds from one seed.

    Raises:
        UnidentifiableError: If a setting cannot be told from another of its kind.
    """
    settings = {field.name: getattr(protocol, field.name) for field in fields(protocol)}  # type: ignore[arg-type]
    if "make_network" in settings:
        settings["make_network"] = fingerprint_of_builder(settings["make_network"])
    return {"name": protocol.name} | {name: described(value) for name, value in settings.items()}
