"""`module:function` as a data set: what a function of the user's own returns, with the network and loss if it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayes_influence.arguments import kind_of
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.imported import imported
from bayes_influence.data.own_rows import usual_epochs
from bayes_influence.data.sources import as_dataset
from bayes_influence.data.tables import Rows, random_split

LOSSES = {"CrossEntropyLoss": "classification", "BCEWithLogitsLoss": "labels", "MSELoss": "regression"}
"""What is predicted, by the criterion of torch that is trained."""


@dataclass(frozen=True, kw_only=True)
class OwnFunction(Rows):
    """What a function without arguments returns: network, loss and data.

    Data are taken as they are: nothing is standardised.

    Attributes:
        name: `module:function`.
        network: Builds a network.
        loss: A criterion, one of `LOSSES` where networks are to be Bayesian.
        train: Training examples.
        test: Test examples; a fifth of the training examples where none came.
    """

    name: str
    network: Callable[[], nn.Module]
    loss: Callable[..., Any]
    train: Dataset
    test: Dataset | None

    @classmethod
    def named(cls, name: str) -> OwnFunction:
        """What the function of this name returns; it is called once, however often it is asked for.

        Raises:
            ValueError: If it does not import, or fails.
            TypeError: If it returns something else.
        """
        function = imported(name)
        if not callable(function):
            raise TypeError(f"{name} must be a function without arguments, got {kind_of(function)}")
        held = _returned.get(name)
        if held is not None and held[0] is function:
            return held[1]
        try:
            found = function()
        except Exception as error:
            raise ValueError(f"{name} failed: {type(error).__name__}: {error}") from error
        _returned.clear()
        _returned[name] = function, cls._of(name, found)
        return _returned[name][1]

    @classmethod
    def _of(cls, name: str, found: Any) -> OwnFunction:
        what = f"{name} must return network, loss and data: a function that builds a network, a criterion, and data"
        if not isinstance(found, tuple) or len(found) != 3:
            length = f" of {len(found)}" if isinstance(found, tuple) else ""
            raise TypeError(f"{what}; got {kind_of(found)}{length}")
        network, loss, data = found
        if isinstance(network, nn.Module) or not callable(network):
            advice = "return its class, or a function without arguments that builds it anew at every call"
            raise TypeError(f"{what}; as network it returned {kind_of(network)}; {advice}")
        if not callable(loss):
            raise TypeError(f"{what}; as loss it returned {kind_of(loss)}")
        if isinstance(data, Split):
            train, test = data.train, data.test
        else:
            train, test = as_dataset(data, name), None
        return cls(name=name, network=network, loss=loss, train=train, test=test, epochs=usual_epochs(len(train)))

    @property
    def task(self) -> str:
        """As the loss says.

        Raises:
            TypeError: If it does not say.
        """
        named = type(self.loss).__name__
        if named not in LOSSES:
            raise TypeError(
                f"{self.name}: the schemes know the losses {', '.join(LOSSES)} of torch, got {named}; for a loss of "
                "your own take Influence.of, or an Objective"
            )
        return LOSSES[named]

    @property
    def n_targets(self) -> int:
        """Entries of a target."""
        return self.train.example.targets.numel()

    def examples(self, dtype: torch.dtype = torch.float64) -> Dataset:
        """The training examples."""
        return self.train.to(dtype=dtype)

    def raw_split(self, dtype: torch.dtype, folder: Any = None) -> Split:
        """As they came, or a fifth of the training examples as the test part."""
        if self.test is None:
            return random_split(self.examples(dtype))
        return Split(self.train.to(dtype=dtype), self.test.to(dtype=dtype))

    def target_units(self) -> tuple[Tensor, Tensor]:
        """0 and 1: the targets are trained as they are."""
        like = self.train.example.targets[0].double()
        return torch.zeros_like(like), torch.ones_like(like)

    def standardise(self, train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
        """As they are."""
        return (train, *others)


_returned: dict[str, tuple[Callable[[], Any], OwnFunction]] = {}
"""The function that was called last, by its name, and what it returned: reading data may take long."""
