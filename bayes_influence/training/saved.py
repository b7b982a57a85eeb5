"""Trained networks in one file that is kept and shared: what they are, where they stand, what they were trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.files import write_whole
from bayes_influence.data.packed import packed, unpacked
from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.data.versions import environment
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.moments.layers import BayesianLayer, is_bayesian
from bayes_influence.objectives.members import Members, member
from bayes_influence.objectives.objective import Likelihood, Objective, Regulariser
from bayes_influence.objectives.parameters import Flattening, Params
from bayes_influence.training.averaging import SwagPosterior
from bayes_influence.training.descriptions import described, restored
from bayes_influence.training.fits import Fits
from bayes_influence.training.minibatch import Trained
from bayes_influence.training.scheme import Scheme

KIND = "saved network"
FORMAT = 1
"""Version of the layout of such a file."""

OPTIONS = ("method", "max_pooling", "structure")
"""What a Bayesian network was made with, in the order it is stored; a file without the last is of a diagonal one."""

PARAMETER, BUFFER, OWN_BUFFER, RESULT, POSTERIOR = "parameter/", "buffer/", "own-buffer/", "result/", "posterior/"
"""What tensors of the file are: stacked parameters, buffers of all members, stacked buffers in which members differ,
other results of a training, SWAG's Gaussians."""

RESULTS: dict[type[Members], tuple[str, ...]] = {
    Members: (),
    Fits: ("gradient_norms", "polished"),
    Trained: ("values", "accuracies"),
}
"""The stacks that are saved, and the tensors that each holds beside parameters and buffers."""


@dataclass(frozen=True, eq=False)
class Saved:
    """What a file of trained networks holds.

    Attributes:
        trained: The networks, of the class that was saved: an `Objective`, `Members`, `Fits` or `Trained`.
        train_ids: Ids of the training examples, where they were saved, too.
        preprocessing: What was said of it, plain JSON values; empty where nothing was.
        versions: Of Python and the packages that they were saved with.
    """

    trained: Members | Objective
    train_ids: Int[Tensor, " n"] | None = field(repr=False)
    preprocessing: Mapping[str, Any]
    versions: Mapping[str, str]


def save(
    path: str | Path,
    trained: Members | Objective,
    *,
    train: Dataset | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Writes trained networks into one file: safetensors and JSON with a checksum, no pickle, written whole.

    Held are parameters and buffers of all members bit for bit, likelihood, regulariser and its weight, the parameters
    that influence is taken in, and which are frozen; of `Fits` the scheme and how far the minimum was reached, of
    `Trained` its history and SWAG's posteriors; and the versions of the packages. Of the network itself there are the
    classes, options, names and shapes that another one is held against; of a likelihood, a regulariser or a scheme of
    the user's own the name. What they compute is in the user's code, which `load` is given.

    Args:
        path: The file.
        trained: What `fit_schemes` and `train_minibatches` return, a stack of others' making, or an objective.
        train: The training examples, whose ids are kept.
        preprocessing: How inputs were made of what they were, as JSON can hold it.

    Raises:
        TypeError: If it is none of these, or the preprocessing is nothing that JSON can hold.
        OSError: If the file cannot be written; what was there before is then as it was.
    """
    if not isinstance(trained, Objective) and type(trained) not in RESULTS:
        known = ["Objective", *(kind.__name__ for kind in RESULTS)]
        raise TypeError(f"what is saved must be one of {', '.join(known)}, got {type(trained).__name__}")
    members = Members.of(trained)
    objective = members.objective
    tensors = {PARAMETER + name: value for name, value in members.params.items()}
    tensors |= {BUFFER + name: value for name, value in objective.buffers.items()}
    tensors |= {OWN_BUFFER + name: value for name, value in members.buffers.items()}
    tensors |= {RESULT + name: getattr(members, name) for name in RESULTS[type(members)]}
    header: dict[str, Any] = {
        "format": FORMAT,
        "kind": type(trained).__name__,
        "network": _network_described(objective.network),
        "likelihood": described(objective.likelihood),
        "regulariser": described(objective.regulariser),
        "regulariser_weight": objective.regulariser_weight,
        "parameters": objective.parameters if isinstance(objective.parameters, str) else list(objective.parameters),
        "labels": list(members.labels),
        "seeds": list(members.seeds),
        "order": list(tensors),
        "preprocessing": dict(preprocessing or {}),
        "versions": environment(),
    }
    if train is not None:
        tensors["train_ids"] = train.ids
    if isinstance(members, Fits):
        header |= {"scheme": described(members.scheme), "seconds": members.seconds}
    if isinstance(members, Trained) and members.posteriors:
        header["posterior_names"] = list(members.posteriors[0].layout.names)
        tensors |= _of_posteriors(members.posteriors)
    write_whole(Path(path), packed(KIND, tensors, header))


def load(
    path: str | Path,
    network: nn.Module | Callable[[], nn.Module],
    *,
    likelihood: Likelihood | None = None,
    regulariser: Regulariser | None = None,
    scheme: Scheme | None = None,
) -> Saved:
    """What `save` wrote, on the CPU: it predicts and scores as what was saved did, bit for bit.

    Args:
        path: The file.
        network: A network of the same architecture, or what builds one; left as it is. Where a Bayesian network was
            saved, the deterministic one that it was made of will do.
        likelihood: Where it is none of the library's or torch's.
        regulariser: Where it is none of the library's.
        scheme: Where it is none of the library's.

    Raises:
        FileNotFoundError: If there is no such file.
        DamagedFileError: If it is damaged, or no file of trained networks.
        TypeError: If `network` is neither a network nor builds one.
        ValueError: If the file is of another version; if the network has other layers, parameters or shapes than the
            one that was saved, the first difference is named; if likelihood, regulariser or scheme are others, or have
            to be passed.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no trained networks at {path}")
    try:
        tensors, header = unpacked(Path(path).read_bytes(), KIND)
    except DamagedFileError as error:
        raise DamagedFileError(f"{path} cannot be used: {error}") from error
    if header["format"] != FORMAT:
        raise ValueError(f"{path} is of format {header['format']}, and this version reads {FORMAT}")
    found_scheme = restored(header["scheme"], "scheme", scheme) if "scheme" in header else None
    fitting = _fitting(network, header["network"], found_scheme)
    params, buffers, own_buffers, results = (
        _named(tensors, header["order"], start) for start in (PARAMETER, BUFFER, OWN_BUFFER, RESULT)
    )
    objective = Objective(
        fitting,
        restored(header["likelihood"], "likelihood", likelihood),
        restored(header["regulariser"], "regulariser", regulariser),
        header["regulariser_weight"],
        header["parameters"],
        member(params, 0),
        buffers,
    )
    shared: dict[str, Any] = {
        "objective": objective,
        "params": params,
        "buffers": own_buffers,
        "labels": tuple(header["labels"]),
        "seeds": tuple(header["seeds"]),
        **results,
    }
    trained: Members | Objective
    if found_scheme is not None:
        trained = Fits(**shared, scheme=found_scheme, seconds=header["seconds"])
    elif header["kind"] == "Trained":
        trained = Trained(**shared, posteriors=_posteriors(tensors, header, len(header["labels"])))
    else:
        trained = objective if header["kind"] == "Objective" else Members(**shared)
    return Saved(trained, tensors.get("train_ids"), header["preprocessing"], header["versions"])


def _named(tensors: Params, order: list[str], start: str) -> Params:
    """The tensors of one kind, in the order that they had: sums over them are the same to the bit."""
    return {name.removeprefix(start): tensors[name] for name in order if name.startswith(start)}


def _network_described(network: nn.Module) -> dict[str, Any]:
    """What tells whether another network is of the same architecture, as far as its modules say."""
    approximations = {module.approximation.options for module in network.modules() if isinstance(module, BayesianLayer)}
    return {
        "modules": {
            path: f"{type(module).__name__}({module.extra_repr()})" for path, module in network.named_modules()
        },
        "shapes": {name: list(value.shape) for name, value in [*network.named_parameters(), *network.named_buffers()]},
        "frozen": [name for name, value in network.named_parameters() if not value.requires_grad],
        "approximation": list(*approximations) if len(approximations) == 1 else None,
    }


def _fitting(network: nn.Module | Callable[[], nn.Module], stored: dict[str, Any], scheme: Scheme | None) -> nn.Module:
    """The network, made Bayesian or prepared where that is how it was saved, if it is of the same architecture."""
    made = network if isinstance(network, nn.Module) else network() if callable(network) else network
    if not isinstance(made, nn.Module):
        raise TypeError(f"load takes a network or a function that builds one, got {type(made).__name__}")
    held = copy.deepcopy(made)
    if stored["approximation"] is not None and not is_bayesian(held):
        held = to_bayesian(held, **dict(zip(OPTIONS, stored["approximation"], strict=False)))
    elif scheme is not None and _difference(held, stored) and not is_bayesian(held):
        prepared = scheme.prepare(held)
        held = held if _difference(prepared, stored) else prepared
    difference = _difference(held, stored)
    if difference:
        raise ValueError(f"the network does not fit the one that was saved: {difference}; pass one built as that was")
    for name, parameter in held.named_parameters():
        parameter.requires_grad_(name not in stored["frozen"])
    return held


def _difference(network: nn.Module, stored: dict[str, Any]) -> str:
    """The first thing in which a network is another than the one that was saved, empty if there is none."""
    own = _network_described(network)
    for what, part in (("module", "modules"), ("tensor", "shapes")):
        for name in sorted({*own[part], *stored[part]}):
            mine, its = own[part].get(name, "absent"), stored[part].get(name, "absent")
            if mine != its:
                called = f"{what} {name!r}" if name else "the network itself"
                return f"{called} is {_written(its)} there and {_written(mine)} here"
    return ""


def _written(value: str | list[int]) -> str:
    return value if isinstance(value, str) else f"of shape {tuple(value)}"


def _of_posteriors(posteriors: tuple[SwagPosterior, ...]) -> Params:
    return {
        f"{POSTERIOR}{index}/{name}": getattr(posterior, name)
        for index, posterior in enumerate(posteriors)
        for name in ("mean", "diagonal", "deviations")
    }


def _posteriors(tensors: Params, header: dict[str, Any], count: int) -> tuple[SwagPosterior, ...]:
    if "posterior_names" not in header:
        return ()
    names = header["posterior_names"]
    shapes = {name: tensors[PARAMETER + name][0].shape for name in names}
    layout = Flattening(tuple(names), tuple(shapes[name] for name in names))
    return tuple(
        SwagPosterior(layout, *(tensors[f"{POSTERIOR}{index}/{name}"] for name in ("mean", "diagonal", "deviations")))
        for index in range(count)
    )
