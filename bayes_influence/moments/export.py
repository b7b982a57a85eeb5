"""A Bayesian network's mean and variance as a program of torch's own, which runs without this library."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from bayes_influence.moments.layers import BayesianLayer, is_bayesian


class MeanAndVariance(nn.Module):
    """x -> (m, v): a Bayesian network with its moments as a pair of tensors.

    Args:
        network: A network that `to_bayesian` made.

    Raises:
        ValueError: If it has no Bayesian layer.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not is_bayesian(network):
            raise ValueError(
                f"{type(network).__name__} has no Bayesian layer; export it with torch.export.export itself"
            )
        self.network = network

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Expectation and variance of the outputs."""
        outputs = self.network(inputs)
        return outputs.expectation, outputs.variance


def export_moments(network: nn.Module, inputs: Tensor) -> ExportedProgram:
    """The network in evaluation mode as an exported program (inputs) -> (m, v).

    It takes batches of any size from 2 on; where activations are propagated by the method `"exact"`, which goes through
    large batches in pieces, batches of the size that was given.

    `torch.export.save` writes it; `torch.export.load(path).module()` runs where this library is not installed.

    Args:
        network: A network that `to_bayesian` made, such as `objective.network`; left as it is.
        inputs: A batch of at least 2 examples, for its shape and dtype.

    Raises:
        ValueError: If the network has no Bayesian layer, or the batch has a single example.
    """
    if len(inputs) < 2:
        raise ValueError("exporting for batches of any size needs an example batch of at least 2, got 1")
    pair = MeanAndVariance(copy.deepcopy(network)).eval()
    layers = [module for module in network.modules() if isinstance(module, BayesianLayer)]
    in_pieces = any(layer.approximation.method == "exact" for layer in layers)
    return export(pair, (inputs,), dynamic_shapes=None if in_pieces else ({0: Dim("batch", min=2)},))
