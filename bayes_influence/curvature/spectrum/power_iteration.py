"""The published protocol's spectrum: pyhessian's power iteration and trace."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Regulariser
from bayes_influence.objectives.parameters import Params


def power_iteration_pyhessian(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    max_iter: int = 100,
    tol: float = 1e-3,
    *,
    params: Params | None = None,
    regulariser: Regulariser | None = None,
    seed: int = 0,
) -> float:
    """The Hessian's eigenvalue of largest magnitude, as pyhessian 0.1 iterates for it.

    This is the protocol of published spectra, kept for comparison: it finds the largest *magnitude* (a negative
    eigenvalue where that dominates) over all parameters of the network, stops when the Rayleigh quotient's relative
    change falls below `tol`, and is biased low by that. `extreme_eigenvalues` is the accurate way.

    By itself it sees the data loss only: weight decay that the optimiser applied is not in its Hessian. A
    `regulariser` puts it there.

    The network is copied, so that neither its mode nor its gradients change; the copy runs in evaluation mode.

    Args:
        network: The deterministic network.
        loss: `(outputs, targets) -> ()`, the mean loss over the batch.
        batch: All examples of the mean.
        max_iter: At most this many Hessian-vector products.
        tol: Relative change at which to stop.
        params: Where to evaluate; the network's own parameters when not given.
        regulariser: R, added to the loss.
        seed: Of the random start; the caller's generators are left alone.
    """
    with _pyhessian(network, loss, batch, params, regulariser, seed) as hessian:
        eigenvalues, _ = hessian.eigenvalues(max_iter, tol)
    return float(eigenvalues[0])


def trace_pyhessian(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    max_iter: int = 100,
    tol: float = 1e-3,
    *,
    params: Params | None = None,
    regulariser: Regulariser | None = None,
    seed: int = 0,
) -> float:
    """The Hessian's trace, as pyhessian 0.1 estimates it: Hutchinson's mean over random signs.

    The protocol of published traces, kept for comparison. It stops when the running mean's relative change falls below
    `tol`, which one lucky probe can bring about, and has no standard error; `trace.xtrace` does better with as many
    products. Sees what `power_iteration_pyhessian` sees, and takes the same arguments.
    """
    with _pyhessian(network, loss, batch, params, regulariser, seed) as hessian:
        values = hessian.trace(max_iter, tol)
    return sum(float(value) for value in values) / len(values)


@contextmanager
def _pyhessian(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    params: Params | None,
    regulariser: Regulariser | None,
    seed: int,
) -> Iterator[Any]:
    """A pyhessian object of a copy of the network, with a generator and a default dtype of its own."""
    from pyhessian import hessian

    twin = copy.deepcopy(network)
    if params is not None:
        twin.load_state_dict({**twin.state_dict(), **params})
    parameters: Params = {}
    parameters.update(twin.named_parameters())
    dtype = next(iter(parameters.values())).dtype

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        data = loss(outputs, targets)
        return data if regulariser is None else data + regulariser(parameters)

    with _quiet_generator(dtype, seed), torch.enable_grad():
        twin.zero_grad(set_to_none=True)
        yield hessian(twin, criterion, data=(batch.inputs, batch.targets), cuda=False)
        twin.zero_grad(set_to_none=True)


@contextmanager
def _quiet_generator(dtype: torch.dtype, seed: int) -> Iterator[None]:
    """A seeded generator and a default dtype for pyhessian, which draws its start in the default dtype."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # The reference cycle that it warns of ends with the gradients of the copied network.
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
