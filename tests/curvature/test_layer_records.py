"""Receptive fields: times the weight they are the convolution itself."""

import pytest
import torch
from torch.nn import functional

from bayes_influence.curvature.operators.layer_records import _patches

CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 3, 9), (4,), {}),
        ((2, 3, 9), (4,), {"padding": "same"}),
        ((2, 3, 9), (3,), {"padding": "same", "dilation": 2}),
        ((2, 3, 9), (4,), {"padding": "valid"}),
        ((2, 3, 9), (3,), {"stride": 2, "padding": 2, "dilation": (2,)}),
        ((2, 3, 6, 7), (3, 2), {}),
        ((2, 3, 6, 7), (3, 2), {"stride": 2}),
        ((2, 3, 6, 7), (3, 2), {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 3)}),
        ((2, 3, 6, 7), (2, 4), {"padding": "same"}),
        ((2, 2, 4, 5, 3), (2, 3, 1), {"padding": 1, "stride": (1, 2, 1)}),
    ],
)
def test_receptive_fields_times_the_weight_are_the_convolution(shape, kernel, options) -> None:
    generator = torch.Generator().manual_seed(0)
    received = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, shape[1], *kernel, generator=generator, dtype=torch.float64)
    fields = _patches(received, weight, **options)
    expected = CONVOLUTIONS[len(shape)](received, weight, **options).flatten(2).transpose(1, 2)
    torch.testing.assert_close(fields @ weight.flatten(1).T, expected)
