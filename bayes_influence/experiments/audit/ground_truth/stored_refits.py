"""Refits that are stored a few at a time, so that a killed retraining of a large network loses only the last few."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.experiments.audit.ground_truth.subsets import protocol_config
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.fingerprint import identity_of_members
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.reduction import Reduction, reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import Refits

PARAMS = "params/"
"""Before the names of parameters among the arrays of a cell."""

BUFFERS = "buffers/"
"""Before the names of buffers there."""


@dataclass(frozen=True, eq=False)
class _Job:
    members: Members
    train: Dataset
    protocol: RetrainingProtocol
    removals: Removals


def stored_refits(
    protocol: RetrainingProtocol,
    trained: Trained,
    train: Dataset,
    removed: Removals | Int[Tensor, "*E k"],
    folder: str | Path,
    *,
    per_cell: int = 10,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Refits:
    """What `protocol.refit` returns, computed and stored a few removals at a time.

    The same call on the same folder continues where it was killed. Every cell refits its own control, of which the
    first one's is returned: with one removal per cell that doubles the work, with ten it adds a tenth.

    Args:
        protocol: How networks are refitted.
        trained: E networks at their fitted parameters.
        train: Their training examples.
        removed: What to remove, or ids to remove one at a time: (E, k), or (k,) the same for all.
        folder: Where refits are kept.
        per_cell: Removals (of every network) that are refitted and stored together.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If `per_cell` is not positive, or the folder belongs to other networks, data, removals or protocol.
        FailedCellsError: If a refit failed, after all others were stored.
    """
    if per_cell < 1:
        raise ValueError(f"a cell holds at least 1 removal, got per_cell={per_cell}")
    members = Members.of(trained)
    removals = as_removals(removed, len(members))
    config = {
        "study": "refits",
        "protocol": protocol_config(protocol),
        "convention": removals.convention,
        "groups": [[group.tolist() for group in groups] for groups in removals.groups],
        "per_cell": per_cell,
        "labels": list(members.labels),
        "seeds": list(members.seeds),
        "fingerprint": fingerprint(networks=identity_of_members(members), train=train),
    }
    store = StudyFolder(folder, config)
    cells = {}
    for first in range(0, removals.count, per_cell):
        part = replace(removals, groups=tuple(groups[first : first + per_cell] for groups in removals.groups))
        cells[cell_key(first=first, count=part.count)] = _Job(members, train, protocol, part)
    run_cells(cells, _refit, store, n_jobs=n_jobs, progress=progress)
    return _joined(reduce(members, train), removals, [dict(store.load_cell(key).arrays) for key in cells])


def refit_arrays(refits: Refits) -> dict[str, Tensor]:
    """What a cell keeps of refits."""
    arrays: dict[str, Tensor] = {PARAMS + name: value for name, value in refits.params.items()}
    arrays |= {BUFFERS + name: value for name, value in refits.buffers.items()}
    arrays |= {"gradient_norms": refits.gradient_norms, "converged": refits.converged}
    return arrays if refits.watched is None else arrays | {"watched": refits.watched}


def refits_from(arrays: dict[str, Tensor], reduction: Reduction, removals: Removals) -> Refits:
    """The refits that `refit_arrays` took apart, with the networks and the removals that they belong to."""
    params, buffers = (
        {name.removeprefix(part): value for name, value in arrays.items() if name.startswith(part)}
        for part in (PARAMS, BUFFERS)
    )
    return Refits(
        reduction=reduction,
        params=params,
        removals=removals,
        gradient_norms=arrays["gradient_norms"],
        converged=arrays["converged"],
        buffers=buffers,
        watched=arrays.get("watched"),
    )


def _refit(job: _Job) -> CellResult:
    return CellResult(arrays=refit_arrays(job.protocol.refit(job.members, job.train, job.removals)))


def _joined(reduction: Reduction, removals: Removals, cells: list[dict[str, np.ndarray | Tensor]]) -> Refits:
    """The cells' refits one after the other, behind the first one's control."""

    def along_refits(name: str) -> Tensor:
        parts = [torch.as_tensor(cell[name]) for cell in cells]
        return torch.cat([parts[0], *(part[:, 1:] for part in parts[1:])], dim=1)

    return refits_from({name: along_refits(name) for name in cells[0]}, reduction, removals)
