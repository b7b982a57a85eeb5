"""Influence in the types of other libraries, for what they measure and draw; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import kind_of
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores

TASKS = ["image_classification", "text_classification", "causal_lm"]
"""What quanda calls the tasks that an explainer is for."""


def as_valuation_result(scores: InfluenceScores) -> Any:
    """Values of the training examples as pyDVL's `ValuationResult`: mean removal effects over the test examples.

    A value is large where removing the example hurts, as pyDVL has it; indices are positions in the training set, and
    data names the examples' ids.

    Args:
        scores: Of a loss.

    Returns:
        A `pydvl.valuation.result.ValuationResult`, algorithm "influence".

    Raises:
        ImportError: If pyDVL is not installed.
        TypeError: If these are no scores.
    """
    if not isinstance(scores, InfluenceScores):
        raise TypeError(f"values are made of InfluenceScores, got {kind_of(scores)}; take influence.on_loss(test)")
    result = _of_peer("pydvl.valuation.result", "pyDVL")
    return result.ValuationResult(
        values=scores.removal.mean(dim=0).double().cpu().numpy(),
        data_names=scores.train_ids.cpu().numpy(),
        algorithm="influence",
    )


def as_explainer(influence: Influence, train: torch.utils.data.Dataset) -> Any:
    """Influence as an explainer of quanda, whose metrics and benchmarks ask for one.

    Explanations are removal effects on the loss, (test examples, training examples): positive for examples that help.

    Args:
        influence: Of the model that is explained.
        train: Its training examples in their order, as quanda's metrics take them.

    Returns:
        A `quanda.explainers.Explainer`.

    Raises:
        ImportError: If quanda is not installed.
        TypeError: If it is no influence.
        ValueError: If the data set has another number of examples.
    """
    if not isinstance(influence, Influence):
        raise TypeError(f"an explainer is made of an Influence, got {kind_of(influence)}; take Influence.of(...)")
    count = len(influence.problem.train)
    if len(train) != count:  # type: ignore[arg-type]
        raise ValueError(
            f"influence is that of {count} training examples, but the data set has {len(train)}; "  # type: ignore[arg-type]
            "pass the one that the model was trained on"
        )
    explainers = _of_peer("quanda.explainers", "quanda")

    class InfluenceExplainer(explainers.Explainer):  # type: ignore[name-defined]
        """Removal effects on the loss."""

        accepted_tasks = TASKS

        def explain(self, test_data: Any, targets: Any) -> Float[Tensor, "t n"]:
            """Of every training example on the loss of every test example."""
            labels = torch.as_tensor(targets, device=influence.problem.objective.device)
            return influence.on_loss(Dataset(test_data, labels, torch.arange(len(labels)))).removal

        def self_influence(self, batch_size: int = 32) -> Float[Tensor, " n"]:
            """Of every training example on its own loss."""
            return influence.self_influence() / count

    return InfluenceExplainer(influence.problem.objective.network, train)


def _of_peer(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed, or not whole ({error}); benchmarks/requirements.txt says how"
        ) from error
