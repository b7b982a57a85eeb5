"""Running statistics of batch normalisation for parameters that were averaged, not trained."""

from __future__ import annotations

import copy

import torch
from torch.func import functional_call

from bayes_influence.data.arguments import as_call
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.layers import is_bayesian
from bayes_influence.objectives.members import member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params, moved_like
from bayes_influence.torch_internals import AnyBatchNorm


def refreshed_buffers(objective: Objective, params: Params, buffers: Params, train: Dataset, batch_size: int) -> Params:
    """Every member's buffers after one pass over the training examples at `params`.

    The examples come in the equally large batches of a training (up to one example), and means and variances are the
    average of the batches' own, weighted by their sizes: what `torch.optim.swa_utils.update_bn` takes where all are
    equal. Only batch norms are in training mode. A network without them, or a Bayesian one (whose statistics stay
    those of the deterministic training), keeps its buffers.

    Args:
        objective: Whose network it is; left as it is.
        params: Stacked parameters.
        buffers: Stacked buffers; left as they are.
        train: The examples.
        batch_size: How many at a time, at most.
    """
    network = copy.deepcopy(objective.network).eval()
    norms = {path: module for path, module in network.named_modules() if isinstance(module, AnyBatchNorm)}
    norms = {path: norm for path, norm in norms.items() if norm.track_running_stats}
    if not norms or is_bayesian(network):
        return buffers
    for norm in norms.values():
        norm.train()
    refreshed = {name: value.clone() for name, value in buffers.items()}
    like = next(iter(params.values()))
    for index in range(len(like)):
        for path in norms:
            refreshed[f"{path}.num_batches_tracked".lstrip(".")][index] = 0
        own = {**member(params, index), **member(refreshed, index)}
        with torch.no_grad():
            seen = 0
            for part in torch.arange(len(train)).tensor_split(-(-len(train) // batch_size)):
                seen += len(part)
                for norm in norms.values():
                    norm.momentum = len(part) / seen
                batch = train.select(part).batch()
                functional_call(network, own, *as_call(moved_like(batch.inputs, like)))
    return refreshed
