"""Which networks are audited, in which parameters, against the removal of which examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bayes_influence.curvature.cost import Plan
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import is_linear_layer, reduce
from bayes_influence.objectives.reweighting import example_losses
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.linear_response import LinearResponse, response_plan
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.predicted import Predicted
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.proximal import Proximal, ProximalBregman
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.warm import Warm
from bayes_influence.torch_internals import tree_leaves, tree_map
from bayes_influence.training.minimum import minimised


@dataclass(frozen=True, eq=False)
class AuditJob:
    """One network to be audited, reduced by `on_features`.

    Attributes:
        members: The network, a stack of one.
        train: Its training examples.
        test: Test examples.
        removed: Ids of the examples that are removed one at a time.
        is_head: Whether it is the last layer on its features.
        settings: How it is audited.
        delta: The damping, resolved.
        cold: Retraining from scratch, None to leave that stage out.
        folder: Where finished stages are kept, so that a killed audit resumes at the next one; None to keep nothing.
        polished: What a polish changed, in a sentence.
    """

    members: Members
    train: Dataset
    test: Dataset
    removed: Tensor
    is_head: bool
    settings: AuditSettings
    delta: float
    cold: FromScratch | None = None
    folder: StudyFolder | None = None
    polished: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The number that tells the network from the others."""
        return self.members.seeds[0]

    @property
    def exact(self) -> bool:
        """Whether retraining goes to a minimum, by Newton's method."""
        convex = self.is_head and self.members.objective.is_regularised
        return self.settings.refits == "newton" or (self.settings.refits == "auto" and convex)

    @property
    def protocols(self) -> dict[str, RetrainingProtocol]:
        """The protocol of every stage of the waterfall but the last, in their order."""
        settings = self.settings
        protocols: dict[str, RetrainingProtocol] = {} if self.cold is None else {"cold": self.cold}
        protocols["warm"] = Minimum() if self.exact else Warm(settings.refit_schedule)
        protocols["proximal"] = Proximal(self.delta, settings.tolerance)
        protocols["pbrf"] = ProximalBregman(self.delta, settings.tolerance)
        protocols["linear"] = LinearResponse(self.delta)
        return protocols

    def stages(self, influence: Influence) -> dict[str, Callable[[], Refits]]:
        """How every stage of the waterfall is computed, in their order; the last from the estimate itself."""
        protocols = self.protocols | {"solver": Predicted(lambda _: influence)}
        return {
            name: partial(protocol.refit, self.members, self.train, self.removed)
            for name, protocol in protocols.items()
        }


def audit_jobs(
    members: Members,
    train: Dataset,
    test: Dataset,
    settings: AuditSettings,
    cold: FromScratch | None = None,
) -> dict[str, AuditJob]:
    """One job per network, by the key that it is stored under; all remove the same examples at the same damping."""
    networks, is_head = on_features(members, train, test)
    polished: list[tuple[str, ...]] = [()] * len(networks)
    if settings.polish:
        ends = [minimised(network, own) for network, own, _ in networks]
        polished = [end.sentences for end in ends]
        networks = [(end.members, own, tests) for end, (_, own, tests) in zip(ends, networks, strict=True)]
    removed = hardest_in_the_mean([(network.at(0), own) for network, own, _ in networks], settings.removals)
    delta = settings.damping
    if delta is None:
        first, own, _ = networks[0]
        delta = settings.influence(first.at(0), own, "auto").damping.delta
    if delta == 0:
        raise ValueError("the automatic damping came to 0; give the audit a positive one")
    return {
        cell_key(seed=network.seeds[0]): AuditJob(
            network, own, tests, removed, is_head, settings, delta, cold, polished=said
        )
        for (network, own, tests), said in zip(networks, polished, strict=True)
    }


def audit_plan(jobs: Mapping[str, AuditJob]) -> Plan:
    """What auditing the networks needs: outputs of all refits of one at every stage, and the passes of the trainings.

    Beside the outputs it holds what the linear response does. Stages that minimise take passes beside these,
    which nobody knows before.
    """
    job = next(iter(jobs.values()))
    trained = [job.settings.refit_schedule] * (not job.exact) + ([] if job.cold is None else [job.cold.schedule])
    stages, refits = len(job.protocols) + 1, len(job.removed) + 1
    objective, one = job.members.objective, job.train.select([0]).batch()
    with torch.no_grad():
        outputs = tree_leaves(objective.outputs(objective.params, one.inputs))
    numbers = stages * refits * len(job.train) * sum(leaf.numel() for leaf in outputs)
    examples = None if is_linear_layer(objective, job.train.example.inputs) else len(job.train)
    response = response_plan(objective.layout.total, examples, 1, refits, objective.dtype.itemsize)
    return Plan(
        f"audit of {len(jobs)} network{'s' if len(jobs) > 1 else ''} by {refits} refits of each at {stages} stages",
        numbers * objective.dtype.itemsize + response.held_bytes,
        "remove fewer examples, or audit fewer parameters (parameters='last-layer')",
        passes=len(jobs) * refits * sum(schedule.epochs for schedule in trained),
    )


def on_features(members: Members, train: Dataset, test: Dataset) -> tuple[list[tuple[Members, Dataset, Dataset]], bool]:
    """Every network by itself in float64, with its examples: the last layer on its features where that is the same.

    The networks then run over the data once, in their own dtype.

    Returns:
        The networks with training and test examples, and whether each is the last layer on its features.
    """
    reduction = reduce(members, train)
    seen = reduction.features_of(test)
    is_head = reduction.is_head and seen is not None
    parts = []
    for index in range(len(members)):
        if is_head:
            network, own = reduction.problem.select([index]), reduction.examples(index)
            tests = test.with_inputs(tree_map(lambda leaf, index=index: leaf[index], seen))
        else:
            network, own, tests = reduction.members.select([index]), train, test
        double = network.to(dtype=torch.float64), own.to(dtype=torch.float64), tests.to(dtype=torch.float64)
        parts.append(double)
    return parts, is_head


def hardest_in_the_mean(networks: Sequence[tuple[Objective, Dataset]], count: int) -> Tensor:
    """Ids of the training examples with the largest loss, a mean over the networks: the same for every one.

    Args:
        networks: Each with the training examples as it takes them, in one order.
        count: How many.

    Raises:
        ValueError: If there are not so many examples, or a loss is not finite.
    """
    train = networks[0][1]
    if not 1 <= count < len(train):
        raise ValueError(f"between 1 and {len(train) - 1} of {len(train)} examples can be removed, got {count}")
    mean = torch.stack([example_losses(objective, own) for objective, own in networks]).mean(0)
    return train.ids[torch.argsort(mean, descending=True, stable=True)[:count]]
