"""Whether a function with derivatives of its own may be used where we are."""

from __future__ import annotations

from torch._C._functorch import TransformType, get_interpreter_stack


def nested_forward_mode() -> bool:
    """Whether a jvp is being taken inside another.

    Within the inner one's rule of a `torch.autograd.Function`, torch drops the tangents of the outer one without a
    word, and a second directional derivative comes out wrong. There the plain formula is differentiated instead.
    """
    levels = get_interpreter_stack() or []
    return sum(level.key() == TransformType.Jvp for level in levels) > 1
