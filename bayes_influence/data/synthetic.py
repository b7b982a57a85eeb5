"""Synthetic problems whose best predictor is linear and known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_count
from bayes_influence.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """A dataset and the linear map that it was drawn from.

    Attributes:
        dataset: The examples.
        weight: (C, d), the true weights.
        bias: (C,), the true biases.
    """

    dataset: Dataset
    weight: Float[Tensor, "C d"]
    bias: Float[Tensor, " C"]

    def outputs(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        """The true linear map Wx + b: class logits (up to a constant per example), or the noiseless targets."""
        return inputs @ self.weight.T + self.bias

    def probabilities(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n C"]:
        """The true p(class | x) = softmax(outputs(x)) of a classification problem.

        Raises:
            TypeError: If the problem is a regression.
        """
        if self.dataset.targets.is_floating_point():
            raise TypeError(f"{self.dataset.name} is a regression problem and has no class probabilities")
        return self.outputs(inputs).softmax(dim=-1)


def gaussian_classes(
    n: int, n_features: int = 5, n_classes: int = 2, separation: float = 2.0, seed: int = 0
) -> LinearProblem:
    """Classes of equal size with unit-covariance Gaussian inputs around random centres.

    x | c ~ N(m_c, I), so log p(c | x) = m_c.x - |m_c|^2/2 + const: the Bayes-optimal logits are linear in x.

    Args:
        n: Number of examples; example i belongs to class i mod n_classes.
        n_features: d.
        n_classes: C.
        separation: Standard deviation of the centres' coordinates.
        seed: The same seed gives the same centres and examples.

    Raises:
        ValueError: If a size is out of range.
    """
    check_count(n=n, n_features=n_features)
    if n_classes < 2 or n < 2 * n_classes:
        raise ValueError(f"need at least 2 classes of 2 members each, got n={n} and n_classes={n_classes}")
    generator = torch.Generator().manual_seed(seed)
    centres = separation * _normal(generator, n_classes, n_features)
    targets = torch.arange(n) % n_classes
    inputs = centres[targets] + _normal(generator, n, n_features)
    dataset = _classification("gaussian-classes", inputs, targets, n_classes)
    return LinearProblem(dataset, centres, -0.5 * centres.square().sum(dim=1))


def logistic_classes(
    n: int, n_features: int = 5, n_classes: int = 2, scale: float = 1.0, seed: int = 0
) -> LinearProblem:
    """Standard normal inputs with classes drawn from a known multinomial logistic model.

    x ~ N(0, I), c | x ~ Categorical(softmax(Wx + b)) with the entries of W and b drawn from N(0, scale^2).

    Args:
        n: Number of examples.
        n_features: d.
        n_classes: C.
        scale: Standard deviation of the true weights and biases.
        seed: The same seed gives the same weights and examples.

    Raises:
        ValueError: If a size is out of range.
    """
    check_count(n=n, n_features=n_features)
    if n_classes < 2:
        raise ValueError(f"need at least 2 classes, got n_classes={n_classes}")
    generator = torch.Generator().manual_seed(seed)
    weight, bias = scale * _normal(generator, n_classes, n_features), scale * _normal(generator, n_classes)
    inputs = _normal(generator, n, n_features)
    probabilities = (inputs @ weight.T + bias).softmax(dim=-1)
    targets = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    return LinearProblem(_classification("logistic-classes", inputs, targets, n_classes), weight, bias)


def linear_regression(
    n: int, n_features: int = 5, n_targets: int = 1, noise: float = 0.1, seed: int = 0
) -> LinearProblem:
    """Standard normal inputs and targets y = Wx + b + noise with known weights.

    The entries of W and b are drawn from N(0, 1), the noise from N(0, noise^2).

    Args:
        n: Number of examples.
        n_features: d.
        n_targets: Targets per example; they have shape (n, n_targets).
        noise: Standard deviation of the noise, 0 or more.
        seed: The same seed gives the same weights and examples.

    Raises:
        ValueError: If a size is out of range or the noise is negative.
    """
    check_count(n=n, n_features=n_features, n_targets=n_targets)
    if noise < 0:
        raise ValueError(f"the noise is a standard deviation and must be at least 0, got {noise}")
    generator = torch.Generator().manual_seed(seed)
    weight, bias = _normal(generator, n_targets, n_features), _normal(generator, n_targets)
    inputs = _normal(generator, n, n_features)
    targets = inputs @ weight.T + bias + noise * _normal(generator, n, n_targets)
    dataset = Dataset(inputs, targets, torch.arange(n), "linear-regression", _feature_names(n_features))
    return LinearProblem(dataset, weight, bias)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _feature_names(n_features: int) -> tuple[str, ...]:
    return tuple(f"x{index}" for index in range(n_features))


def _classification(name: str, inputs: Tensor, targets: Tensor, n_classes: int) -> Dataset:
    class_names = tuple(f"class {index}" for index in range(n_classes))
    return Dataset(inputs, targets, torch.arange(len(targets)), name, _feature_names(inputs.shape[1]), class_names)
