"""What a scheme trains: built, held against the network that it was made of, and ready to be trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from bayes_influence.arguments import shown
from bayes_influence.data.dataset import Dataset
from bayes_influence.models.initialisation import seeded
from bayes_influence.moments.layers import is_bayesian
from bayes_influence.moments.registry import UnsupportedOperationError
from bayes_influence.moments.twins import check_twin
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.noise import LearnedNoise
from bayes_influence.training.scheme import Scheme

CHECKED = 4
"""Training examples on which a Bayesian twin is held against its network."""

SIMPLER = ({"structure": "calibrated"}, {"method": "first-order", "structure": "diagonal"})
"""Moments that have rules for more operations, the more so."""


def built_network(make_network: Callable[[], nn.Module]) -> nn.Module:
    """A network of a builder's, from seed 0.

    Args:
        make_network: Builds the deterministic network.

    Raises:
        TypeError: If it builds what no scheme can turn into something trainable.
    """
    with seeded(0):
        network = make_network()
    if not isinstance(network, nn.Module) or is_bayesian(network):
        what = "a Bayesian network" if isinstance(network, nn.Module) else shown(network)
        raise TypeError(f"make_network must return a deterministic network, an nn.Module, got {what}")
    return network


def prepared_objective(
    scheme: Scheme,
    make_network: Callable[[], nn.Module],
    train: Dataset,
    seed: int,
    parameters: str | Sequence[str] = "all",
    *,
    checked: bool = True,
) -> Objective:
    """What a scheme trains, in the examples' dtype and on their device.

    Args:
        scheme: What is trained.
        make_network: Builds the deterministic network.
        train: Training examples.
        seed: Of the network.
        parameters: The parameters that influence will be taken in.
        checked: Whether a Bayesian twin is held against its network on some of the examples.

    Raises:
        TwinMismatchError: If the twin does not compute what its network computes.
        UnsupportedOperationError: If the twin meets an operation that has no rule under the scheme's moments.
    """
    with seeded(seed):
        prepared = scheme.built(make_network)
    if checked and is_bayesian(prepared):
        with seeded(seed):
            network = make_network()
        if not is_bayesian(network):
            few = train.select(range(min(CHECKED, len(train)))).batch().inputs
            _check_prepared(scheme, network, prepared, few.to(next(network.parameters())))
    like = train.example.inputs
    return scheme.objective(prepared, len(train), parameters).to(like.dtype, like.device)


def _check_prepared(scheme: Scheme, network: nn.Module, prepared: nn.Module, few: Tensor) -> None:
    """Holds a twin against its network; where a rule is missing, the error says which moments have it."""
    try:
        check_twin(network, _twin_in(prepared), few)
    except UnsupportedOperationError as error:
        simpler = _simpler(scheme, network, few)
        if not simpler:
            raise
        given = " and ".join(f"{name} {scheme.options[name]!r}" for name in simpler)
        said = " ".join(f"--{name} {value}" for name, value in simpler.items())
        raise UnsupportedOperationError(
            f"{error}. The scheme {scheme.name} came with {given}; this network can be trained with "
            f"find_schemes([{scheme.name!r}], {simpler}), on the command line {said}"
        ) from error


def _twin_in(prepared: nn.Module) -> nn.Module:
    return prepared.network if isinstance(prepared, LearnedNoise) else prepared


def _simpler(scheme: Scheme, network: nn.Module, few: Tensor) -> dict[str, Any]:
    """The options in which a scheme must change to train a network; none, if that helps nothing."""
    for options in SIMPLER:
        changed = {name: value for name, value in scheme.own(options).items() if scheme.options[name] != value}
        if changed:
            with suppress(UnsupportedOperationError):
                check_twin(network, _twin_in(scheme.with_options(**changed).prepare(network)), few)
                return changed
    return {}
