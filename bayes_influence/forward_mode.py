"""Forward-mode derivatives, one thread at a time.

Torch counts the levels of forward mode once for the whole process: two threads that differentiate at the same time end
in an error, or in each other's tangents.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from bayes_influence.torch_internals import tree_map

_lock = threading.RLock()


def jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """`torch.func.jvp` while no other thread is in it: the function's value and its derivative along the tangents.

    Tensors that were expanded are written out: torch lays a tangent out like its primal, and cannot write into one
    whose entries share their memory.

    Args:
        function: Of tensors, or nestings of them.
        primals: Where.
        tangents: Along what, one for every primal.
    """
    with _lock:
        value, derivative, *_ = torch.func.jvp(function, tree_map(torch.Tensor.contiguous, primals), tangents)
    return value, derivative
