"""Linear layers that share examples against vmap of the gradient, each with its own copy, which they must equal."""

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.linear_layers import are_linear
from bayes_influence.training.tracing import trace_members


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("networks", [1, 2, 6])
def test_layers_with_shared_examples_have_the_gradients_of_layers_with_copies(bias, networks):
    generator = torch.Generator().manual_seed(0)
    objective = Objective(nn.Linear(5, 3, bias=bias).double(), CrossEntropy(), WeightDecay(0.3), 1.0, "all")
    params = {
        name: torch.randn(6, *value.shape, generator=generator).double() for name, value in objective.params.items()
    }
    features = torch.randn(networks, 7, 5, generator=generator).double()
    targets = torch.randint(3, (networks, 7), generator=generator)
    weights, strengths = torch.rand(6, 7, generator=generator).double(), torch.rand(6, generator=generator).double()
    own_data = networks > 1
    shared = Batch(features, targets) if own_data else Batch(features[0], targets[0])
    assert are_linear(objective, params, {}, shared, own_data)
    gradients, values = trace_members(objective, params, shared, weights, strengths, own_data=own_data)(
        params, shared, weights, strengths
    )
    copies = Batch(*(part.repeat_interleave(6 // networks, dim=0) for part in (features, targets)))
    expected, reached = vmap(grad_and_value(objective.value))(params, copies, weights, strengths)
    torch.testing.assert_close(values, reached, rtol=1e-12, atol=1e-13)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-13)


def test_a_layer_of_which_something_is_held_is_none_of_these():
    objective = Objective(nn.Linear(5, 3).double(), CrossEntropy(), WeightDecay(0.3), 1.0, "all")
    params = {name: value.unsqueeze(0) for name, value in objective.params.items()}
    batch = Batch(torch.zeros(7, 5).double(), torch.zeros(7, dtype=torch.int64))
    held = {"bias": params.pop("bias")}
    assert not are_linear(objective, params, held, batch, False)
