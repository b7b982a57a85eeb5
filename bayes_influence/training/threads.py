"""How many threads torch uses: by the size of the tensors, and never longer than asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARALLEL_ELEMENTS = 2**15
"""From this many elements in the largest tensor of a step on, more than one thread pays.

Measured on two cores in float64 with the gradient and Adam step of a stacked MLP (4-w-3, w = 5, 16, 50, 1 to 2048
members) and with bare batched products and elementwise kernels: below it two threads took between 0.7 and 1.5 times
the time of one (starting a team costs as much as the work, and torch's elementwise kernels do not split fewer
elements anyway), around it they were 1.1 to 1.2 times as fast, from 10 times as many elements on 1.3 to 2 times.
"""


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Runs a block with `n_threads` of torch's intra-operation threads, then restores the caller's setting.

    The setting belongs to the thread that enters the block; it is restored when the block raises, too.

    Args:
        n_threads: How many threads, at least 1.

    Raises:
        ValueError: If `n_threads` is less than 1.
    """
    if n_threads < 1:
        raise ValueError(f"torch needs at least one thread, got n_threads={n_threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(n_elements: int) -> int:
    """The number of threads worth using when the largest tensor of a step has `n_elements` elements.

    Args:
        n_elements: Elements of the largest tensor that the step touches, for a stacked training members x batch x
            width.

    Returns:
        1 below `PARALLEL_ELEMENTS`, otherwise as many as the caller allows torch (`torch.get_num_threads()`).
    """
    return 1 if n_elements < PARALLEL_ELEMENTS else torch.get_num_threads()
