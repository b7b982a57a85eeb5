"""dattri 0.3: its influence functions, with the whole training set as one cached batch, and products of gradients."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from dattri.algorithm.influence_function import (
    IFAttributorArnoldi,
    IFAttributorCG,
    IFAttributorDataInf,
    IFAttributorExplicit,
)
from dattri.algorithm.tracin import TracInAttributor
from dattri.task import AttributionTask
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem

STEPS = 60
"""Of conjugate gradients: enough for the last layer; past convergence they divide 0 by 0 and end in NaN."""


def explicit(problem: Problem, cached_batch: int | None = None) -> Outcome:
    """`IFAttributorExplicit`: the dense Hessian and `torch.linalg.solve`.

    More than one batch in the cache sums the solutions of systems that have one batch's Hessian each.
    """
    attributor = IFAttributorExplicit(_task(problem), list(problem.names), regularization=problem.shift)
    return _scores(problem, attributor, cached_batch or len(problem.targets))


def conjugate_gradients(problem: Problem) -> Outcome:
    """`IFAttributorCG`: it takes a number of steps, 10 where not told, and ignores its tolerance."""
    attributor = IFAttributorCG(
        _task(problem),
        list(problem.names),
        max_iter=STEPS,
        mode="rev-fwd",
        regularization=problem.shift,
    )
    return _scores(problem, attributor, len(problem.targets))


def datainf(problem: Problem) -> Outcome:
    """`IFAttributorDataInf`, in float32: the mean of the inverses of single examples' damped outer products."""
    single = _in_float32(problem)
    attributor = IFAttributorDataInf(_task(single), list(single.names), regularization=single.shift)
    return _scores(single, attributor, len(single.targets))


def arnoldi(problem: Problem) -> Outcome:
    """`IFAttributorArnoldi`, in float32: 100 eigenvectors where not told otherwise."""
    single = _in_float32(problem)
    attributor = IFAttributorArnoldi(_task(single), list(single.names), regularization=single.shift)
    return _scores(single, attributor, len(single.targets))


def gradient_products(problem: Problem) -> Outcome:
    """`TracInAttributor` with one checkpoint: g_t'g_i."""
    attributor = TracInAttributor(
        _task(problem, one_at_a_time=True),
        weight_list=torch.ones(1),
        normalized_grad=False,
        layer_name=list(problem.names),
    )
    return _scores(problem, attributor, None)


def _in_float32(problem: Problem) -> Problem:
    """Some of its attributors draw in float32 and take nothing else."""
    network = copy.deepcopy(problem.network).float()
    return replace(problem, network=network, inputs=problem.inputs.float(), test_inputs=problem.test_inputs.float())


def _task(problem: Problem, one_at_a_time: bool = False) -> AttributionTask:
    def loss(params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = (part.unsqueeze(0) for part in batch) if one_at_a_time else batch
        return cross_entropy(functional_call(problem.network, params, inputs), targets)

    return AttributionTask(loss_func=loss, model=problem.network, checkpoints=problem.network.state_dict())


def _scores(problem: Problem, attributor: Any, cached_batch: int | None) -> Outcome:
    n, t = len(problem.targets), len(problem.test_targets)
    train = TensorDataset(problem.inputs, problem.targets)
    if cached_batch is not None:
        attributor.cache(DataLoader(train, batch_size=cached_batch))
    test = DataLoader(TensorDataset(problem.test_inputs, problem.test_targets), batch_size=t)
    raw: Tensor = attributor.attribute(DataLoader(train, batch_size=n), test)
    return Outcome(raw, raw.T / n)
