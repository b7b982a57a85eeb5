"""Reproducible initial parameters: of one network, or of an ensemble on a leading member axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Makes the parameters drawn inside those that follow `torch.manual_seed(seed)`.

    They are drawn on the CPU, so that a seed means the same network whatever device it moves to. The caller's
    generators are left as they were. With `None` nothing happens: the global generator is drawn from.

    Args:
        seed: Seed of PyTorch's CPU generator.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield


def initial_params(
    make_network: Callable[[], nn.Module],
    seeds: Sequence[int],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Initial parameters of E networks, see `initial_state`."""
    return initial_state(make_network, seeds, dtype, device)[0]


def initial_state(
    make_network: Callable[[], nn.Module],
    seeds: Sequence[int],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Initial parameters and buffers of E networks of one architecture, stacked on a leading member axis.

    Member e equals `make_network()` called alone after `torch.manual_seed(seeds[e])`, then cast: members do not
    depend on each other, and the global generators are not touched.

    Args:
        make_network: Builds the network without a seed of its own.
        seeds: One per member.
        dtype: What floating-point values are cast to after they are drawn; their own when not given.
        device: Where they go; the CPU when not given.

    Returns:
        Detached parameters and detached buffers by name, each of shape (E, *shape of its own).

    Raises:
        ValueError: If no seed is given, or the members differ in names or shapes.
    """
    if not len(seeds):
        raise ValueError("initial networks need at least one seed, got none")
    members = [_drawn(make_network, int(seed)) for seed in seeds]
    shapes = [{name: value.shape for part in member for name, value in part.items()} for member in members]
    for seed, other in zip(seeds, shapes, strict=True):
        if other != shapes[0]:
            raise ValueError(
                f"members must share one architecture, but seed {seed} gave tensors {other} and seed {seeds[0]} "
                f"gave {shapes[0]}; let make_network build the same network every time"
            )
    params, buffers = (
        {
            name: torch.stack([part[name] for part in each]).to(
                dtype=dtype if first.is_floating_point() else None, device=device
            )
            for name, first in each[0].items()
        }
        for each in zip(*members, strict=True)
    )
    return params, buffers


def _drawn(make_network: Callable[[], nn.Module], seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with seeded(seed):
        network = make_network()
    params = {name: value.detach() for name, value in network.named_parameters()}
    return params, {name: value.detach() for name, value in network.named_buffers()}
