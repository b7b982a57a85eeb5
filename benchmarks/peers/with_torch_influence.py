"""torch-influence 0.1: conjugate gradients of scipy, one test example at a time, with a true Gauss-Newton matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch_influence import AutogradInfluenceModule, BaseObjective, CGInfluenceModule

from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem


class CrossEntropyObjective(BaseObjective):
    """Mean cross-entropy plus (lambda/2) ||theta||^2 over the parameters that require a gradient.

    Attributes:
        decay: lambda. The library then has it in the Hessian and in every training example's gradient.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def train_outputs(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Logits."""
        return model(batch[0])

    def train_loss_on_outputs(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(outputs, batch[1])

    def train_regularization(self, params: Tensor) -> Tensor:
        """The penalty."""
        return 0.5 * self.decay * params.square().sum()

    def test_loss(self, model: nn.Module, params: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(model(batch[0]), batch[1])


def explicit(problem: Problem) -> Outcome:
    """`AutogradInfluenceModule`: the dense Hessian and its inverse."""
    return _scores(problem, AutogradInfluenceModule(**_parts(problem), damp=problem.damping))


def conjugate_gradients(problem: Problem) -> Outcome:
    """`CGInfluenceModule` on the Hessian or the Gauss-Newton matrix, to a relative residual."""
    settings: dict[str, Any] = {"gnh": problem.curvature == "ggn", "rtol": problem.residual}
    return _scores(problem, CGInfluenceModule(**_parts(problem), damp=problem.damping, **settings))


def _parts(problem: Problem) -> dict[str, Any]:
    train = TensorDataset(problem.inputs, problem.targets)
    test = TensorDataset(problem.test_inputs, problem.test_targets)
    return {
        "model": problem.network,
        "objective": CrossEntropyObjective(problem.decay),
        "train_loader": DataLoader(train, batch_size=problem.batch_size),
        "test_loader": DataLoader(test, batch_size=len(test)),
        "device": torch.device("cpu"),
    }


def _scores(problem: Problem, module: AutogradInfluenceModule | CGInfluenceModule) -> Outcome:
    solved = [module.stest([index]) for index in range(len(problem.test_targets))]
    everyone = list(range(len(problem.targets)))
    raw = torch.stack([module.influences(everyone, [index], stest=stest) for index, stest in enumerate(solved)])
    # The regulariser's gradient is in every example's gradient there: removing one also removes 1/n of the penalty.
    theta = torch.cat([value.detach().flatten() for value in problem.network.parameters() if value.requires_grad])
    removal = raw - torch.stack(solved) @ (problem.decay * theta).unsqueeze(1) / len(problem.targets)
    return Outcome(raw, removal, torch.stack(solved))
