"""What is used of torch's private parts, all of it: names that another version of torch may move or take away.

The rest of the package takes them from here, which a test holds it to; another says which of them the installed torch
has. So a new torch is tried by running `tests/test_torch_internals.py`, and what it moved is mended in this file.
"""

from torch import _is_zerotensor as is_zerotensor
from torch import _weight_norm as weight_norm
from torch._C._functorch import TransformType, get_interpreter_stack, get_unwrapped, is_functorch_wrapped_tensor
from torch._guards import TracingContext
from torch._guards import tracing as tracing_in
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import (
    register_pytree_node,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_structure,
    tree_unflatten,
)

__all__ = [
    "AnyBatchNorm",
    "FakeTensorMode",
    "TorchDispatchMode",
    "TracingContext",
    "TransformType",
    "get_interpreter_stack",
    "get_unwrapped",
    "is_functorch_wrapped_tensor",
    "is_zerotensor",
    "make_fx",
    "register_pytree_node",
    "tracing_in",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_structure",
    "tree_unflatten",
    "weight_norm",
]
