"""Networks of deep ensembles one by one: the mean of their objectives is least where each of them has its minimum."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.ensemble import NetworkEnsemble
from bayes_influence.objectives.ensembles import EnsembleCrossEntropy
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members, stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay
from bayes_influence.objectives.reweighting import example_losses


@dataclass(frozen=True, eq=False)
class Apart:
    """E ensembles of K networks as E K networks, where J of an ensemble is the mean of its networks'.

    Attributes:
        members: The networks, those of the first ensemble first.
        size: K.
    """

    members: Members
    size: int

    @classmethod
    def of(cls, ensembles: Members, train: Dataset) -> Apart | None:
        """The networks of ensembles; None where these are no ensembles, or an objective is not the mean of theirs.

        Whether a loss is the mean of the networks' losses is seen on every training example.

        Args:
            ensembles: Any trained networks.
            train: Their training examples.
        """
        network, decay = ensembles.objective.network, ensembles.objective.regulariser
        if not isinstance(network, NetworkEnsemble) or type(ensembles.objective.likelihood) is not EnsembleCrossEntropy:
            return None
        if not isinstance(decay, WeightDecay | NoRegulariser):
            return None
        size = len(network.members)
        of_each = [_starting(ensembles.objective.names, index) for index in range(size)]
        states = [_own(dict(one.params), index) for one in ensembles for index in range(size)]
        buffers = [_own(dict(one.buffers), index) for one in ensembles for index in range(size)]
        held = len(ensembles.objective.params), len(ensembles.objective.buffers)
        alike = all(list(map(list, part)) == [list(part[0])] * len(part) for part in (states, buffers))
        complete = (size * len(states[0]), size * len(buffers[0])) == held
        if not (alike and complete and of_each == [of_each[0]] * size):
            return None  # networks that share parameters, or of which not the same is taken
        first = Objective(
            network.members[0],
            CrossEntropy(),
            WeightDecay(size * decay.decay) if isinstance(decay, WeightDecay) else decay,
            ensembles.objective.regulariser_weight,
            of_each[0],
            states[0],
            buffers[0],
        )
        found = Members(
            objective=first,
            params=stack_members(states),
            buffers=stack_members(buffers),
            labels=tuple(f"{label}, network {index}" for label in ensembles.labels for index in range(size)),
        )
        for index, one in enumerate(ensembles):
            each = [example_losses(found.at(index * size + k), train) for k in range(size)]
            if not torch.allclose(example_losses(one, train), torch.stack(each).mean(0), rtol=1e-5, atol=1e-6):
                return None
        return cls(found, size)

    def joined(self, free: Params) -> Params:
        """Tensors of the networks, (E K, ...) each, under the names that they have in the ensembles, (E, ...)."""
        return {
            f"{_start(index)}{name}": self.each(value)[:, index]
            for index in range(self.size)
            for name, value in free.items()
        }

    def each(self, values: Shaped[Tensor, "EK *rest"]) -> Shaped[Tensor, "E K *rest"]:
        """One number or tensor per network, by ensembles."""
        return values.unflatten(0, (-1, self.size))

    def norms(self, gradient_norms: Shaped[Tensor, "EK *rest"]) -> Shaped[Tensor, "E *rest"]:
        """The norm of grad J of every ensemble, given its networks': sqrt(sum_k |grad J_k|^2) / K."""
        return self.each(gradient_norms).square().sum(1).sqrt() / self.size


def _start(index: int) -> str:
    """How names of a network's tensors begin in the ensemble."""
    return f"members.{index}."


def _starting(names: tuple[str, ...], index: int) -> tuple[str, ...]:
    return tuple(name.removeprefix(_start(index)) for name in names if name.startswith(_start(index)))


def _own(tensors: Params, index: int) -> Params:
    return {name: tensors[_start(index) + name] for name in _starting(tuple(tensors), index)}
