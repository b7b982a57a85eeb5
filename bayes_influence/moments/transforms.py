"""Whether functions with derivatives of their own may be used where we are."""

from __future__ import annotations

import torch

from bayes_influence.torch_internals import TransformType, get_interpreter_stack


def plain_formulas_needed() -> bool:
    """Whether a `torch.autograd.Function` would fail here, so that the plain formula has to be differentiated.

    Inside a jvp that is taken inside another, torch drops the outer tangents in the function's rule without a word, and
    a second directional derivative comes out wrong. Under `functionalize`, as in a trace, torch has no rule at all.
    `torch.compile` cannot look at the transforms, and differentiates the plain formula itself.
    """
    if torch.compiler.is_compiling():
        return True
    transforms = [level.key() for level in get_interpreter_stack() or []]
    return transforms.count(TransformType.Jvp) > 1 or TransformType.Functionalize in transforms
