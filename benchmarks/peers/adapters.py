"""Holds the adapters to pyDVL's and quanda's types against the libraries themselves.

python -m benchmarks.peers.adapters
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import bayes_influence as bi
from bayes_influence.influence.adapters import as_explainer, as_valuation_result


def problem() -> tuple[nn.Module, TensorDataset, bi.Dataset, bi.Influence]:
    """A linear classifier at its minimum, 40 training and 6 test examples."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(46, 3, generator=generator, dtype=torch.float64)
    targets = (inputs @ torch.randn(3, 3, generator=generator, dtype=torch.float64)).argmax(dim=1)
    network = nn.Linear(3, 3).double()
    train = bi.Dataset(inputs[:40], targets[:40], torch.arange(100, 140))
    fitted = bi.minimum_of(bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.05)), train)
    test = bi.Dataset(inputs[40:], targets[40:], torch.arange(6))
    return network, TensorDataset(inputs[:40], targets[:40]), test, bi.Influence(fitted, train, damping=0.0)


def with_pydvl() -> None:
    """`ValuationResult`: values, names and order are those of the scores."""
    _, _, test, influence = problem()
    scores = influence.on_loss(test)
    result = as_valuation_result(scores)
    result = result.sort(reverse=True)
    order = scores.removal.mean(dim=0).argsort(descending=True)
    np.testing.assert_array_equal(result.names, scores.train_ids[order].numpy())
    np.testing.assert_allclose(result.values, scores.removal.mean(dim=0)[order].numpy())
    print(f"pyDVL: {result.algorithm}, best example {result.names[0]} with {result.values[0]:.2e}")


def with_quanda() -> None:
    """`Explainer`: explanations and self-influence, and a metric of quanda's that asks for them."""
    from quanda.explainers import Explainer

    _, train, test, influence = problem()
    explainer = as_explainer(influence, train)
    assert isinstance(explainer, Explainer)
    found = explainer.explain(test.inputs, test.targets)
    torch.testing.assert_close(found, influence.on_loss(test).removal)
    own = Explainer.self_influence(explainer, batch_size=40)  # quanda's own, example by example
    torch.testing.assert_close(explainer.self_influence().to(own), own)
    distance = (own - explainer.self_influence()).abs().max()
    print(f"quanda: explanations {tuple(found.shape)}, self-influence as its own to {distance:.1e}")


def main() -> None:
    """Says of each library whether the adapter fits it, or that it is not installed."""
    for name, check in (("pydvl", with_pydvl), ("quanda", with_quanda)):
        if find_spec(name) is None:
            print(f"{name}: left out, it is not installed (benchmarks/requirements.txt says how)")
        else:
            check()


if __name__ == "__main__":
    main()
