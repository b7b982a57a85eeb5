"""Numbers so small that the processor computes with them slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


def zero_denormals(flat: Float[Tensor, "E P"]) -> None:
    """Sets every number to zero, in place, that is smaller than the smallest normal one (1.2e-38 in float32).

    Weight decay shrinks the weights into a ReLU that is always 0 without end, in float32 to denormal numbers after some
    1 600 steps of LeNet on CIFAR-10. Convolutions over them are slow: from 1 900 steps on a step took 35 ms of one
    thread instead of 15.

    Args:
        flat: Parameters of all members.
    """
    flat.masked_fill_(flat.abs() < torch.finfo(flat.dtype).tiny, 0)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Lets this thread, and those that it starts, round denormal results to zero; as it was before when left.

    Small weights make denormal activations and gradients long before they are denormal themselves: 72 epochs of a
    ResNet on 4 000 images of CIFAR-10 under weight decay took 843 s of a processor, and 209 since, to one accuracy.
    Threads that were started before are not reached, nor are other devices: for these there is `zero_denormals`.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes_denormals() -> bool:
    """Whether this thread rounds denormal results to zero."""
    return not bool(torch.tensor(1e-30) * torch.tensor(1e-10))
