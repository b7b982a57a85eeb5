import pytest
import torch
from torch.func import grad

from bayes_influence.moments.linear_maps import Affine, Convolution, TransposedConvolution

DOUBLE = torch.float64
CASES = [
    pytest.param(Affine(), (5, 4), (3, 4), id="rows"),
    pytest.param(Affine(), (2, 5, 4), (3, 4), id="rows of rows"),
    pytest.param(Affine(), (4,), (3, 4), id="one row"),
    pytest.param(Convolution((2,), (1,), (1,), 2), (3, 4, 9), (6, 2, 3), id="1d, strided, grouped"),
    pytest.param(Convolution((1, 2), (0, 2), (2, 1), 1), (2, 3, 7, 6), (4, 3, 2, 3), id="2d, dilated"),
    pytest.param(Convolution((1, 1), (1, 1), (1, 1), 1), (3, 6, 5), (4, 3, 3, 3), id="2d, one example"),
    pytest.param(Convolution((1, 1, 1), (0, 0, 0), (1, 1, 1), 1), (2, 2, 4, 3, 3), (3, 2, 2, 2, 2), id="3d"),
    pytest.param(
        TransposedConvolution((2, 3), (1, 0), (2, 1), 2, (1, 0)), (2, 4, 3, 4), (4, 3, 2, 3), id="transposed, grouped"
    ),
    pytest.param(TransposedConvolution((2,), (1,), (1,), 1, (0,)), (3, 5), (3, 2, 3), id="transposed, one example"),
]


@pytest.mark.parametrize(("operation", "shape", "weight_shape"), CASES)
def test_adjoints_are_the_gradients_of_the_inner_product(operation, shape, weight_shape):
    x, weight = torch.randn(shape, dtype=DOUBLE), torch.randn(weight_shape, dtype=DOUBLE)
    transposed = isinstance(operation, TransposedConvolution)
    bias = torch.randn(weight_shape[1] * operation.groups if transposed else weight_shape[0], dtype=DOUBLE)
    gradient = torch.randn_like(operation(x, weight, bias))
    product = grad(lambda x, weight, bias: (gradient * operation(x, weight, bias)).sum(), (0, 1, 2))
    to_input, to_weight, to_bias = product(x, weight, bias)
    mine = operation.adjoints(gradient, x, weight, input_too=True)
    assert torch.allclose(mine[0], to_input, atol=1e-12)
    assert torch.allclose(mine[1], to_weight, atol=1e-12)
    assert operation.adjoints(gradient, x, weight, input_too=False)[0] is None
    assert torch.allclose(operation.to_bias(gradient), to_bias, atol=1e-12)
