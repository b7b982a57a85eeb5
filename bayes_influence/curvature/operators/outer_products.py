"""Per-example gradients of linear and convolutional layers, as the outer products that they are sums of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.layer_records import KroneckerLayer, LayerRecord, RecordLayers
from bayes_influence.curvature.operators.output_curvature import OutputLosses
from bayes_influence.curvature.operators.output_forms import output_curvatures
from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.two_companies import TwoCompanies

Fisher = Literal["exact", "sampled", "empirical"]

FISHERS: tuple[Fisher, ...] = get_args(Fisher)
"""What makes up a curvature when it is sent back from the outputs, see `fisher_vectors`."""

Check = Literal["again", "companies"]
"""How rows are held to be of the examples that they are taken for, see `Backpropagation.through`."""

SentBack = Callable[[Tensor, Batch], Iterator[Tensor]]
"""(outputs, batch) -> vectors s_i in the outputs, of shape (B, C), one after the other."""


@dataclass(frozen=True, eq=False)
class OuterProducts:
    """A layer's gradients G_i = sum_l b_il a_il' for the B examples of a batch and one vector sent back.

    Attributes:
        path: Where the layer stands in the network.
        received: a of shape (B, L, D).
        backpropagated: b of shape (B, L, O).
        weights: (B,) the examples' sample weights, which are in b already; None where all are 1.
        first: Whether this is the batch's first vector: a is the same for all of them.
    """

    path: str
    received: Float[Tensor, "B L D"]
    backpropagated: Float[Tensor, "B L O"]
    weights: Float[Tensor, " B"] | None
    first: bool


def loss_slopes(objective: Objective) -> SentBack:
    """The gradient of every example's loss, its sample weight inside: outer products are then its gradients w_i g_i."""

    def sent_back(outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        yield OutputLosses(objective, batch, outputs).slopes().reshape(len(outputs), -1)

    return sent_back


def fisher_vectors(objective: Objective, fisher: Fisher, generator: torch.Generator) -> SentBack:
    """Vectors whose outer products, added up, are w_i times an example's curvature in the outputs.

    Args:
        objective: Whose likelihood.
        fisher: `"exact"`, the columns of a root of Lambda_i; `"sampled"`, their sum with random signs; `"empirical"`,
            the gradient at the observed target times sqrt(w_i).
        generator: Of the random signs.
    """

    def sent_back(outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
        if fisher == "empirical":
            yield from loss_slopes(objective)(outputs, batch.with_root_weights())
            return
        curvatures = output_curvatures(objective, outputs, batch)
        assert curvatures is not None
        count = curvatures.root_count
        if fisher == "exact":
            yield from (curvatures.root(index) for index in range(count))
        else:
            signs = 2 * torch.randint(2, (count, len(outputs)), generator=generator).to(outputs) - 1
            yield curvatures.drawn(signs)

    return sent_back


@dataclass(frozen=True, eq=False)
class Backpropagation:
    """Sends vectors s_i back from the outputs through every example.

    Attributes:
        objective: Whose network and parameters are used.
        sent_back: What is sent back, `loss_slopes` or `fisher_vectors`.
        companies: Whose batches pass, where that is so, and in which losses and gradients have to be the same.
    """

    objective: Objective
    sent_back: SentBack
    companies: TwoCompanies | None = None

    def through(
        self, layers: tuple[KroneckerLayer, ...], batches: Iterable[Batch], *, check: Check | None = "again"
    ) -> Iterator[OuterProducts]:
        """Every layer's outer products, batch by batch and vector by vector.

        That weights are used nowhere else is seen in every batch, at no cost. That rows are of the examples that they
        are taken for is asked where there is a `check`: `"again"` sends a random sum of the vectors back once more,
        `"companies"` holds one vector's outer products against those in the other company, which costs next to nothing.

        Raises:
            ValueError: If a batch's outer products do not make up its gradients, example by example: a weight is used
                outside its layer as well, or a layer's first axis is not that of the examples.
        """
        for batch in batches:
            yield from self._through_batch(layers, batch, check)

    def _through_batch(
        self, layers: tuple[KroneckerLayer, ...], batch: Batch, check: Check | None
    ) -> Iterator[OuterProducts]:
        selected = set(self.objective.names)
        params = {
            name: value.detach().clone().requires_grad_(name in selected)
            for name, value in self.objective.params.items()
        }
        with torch.enable_grad(), RecordLayers(layers, params) as recorder:
            outputs = self.objective.outputs(params, batch.inputs)
        received = {path: _joined(path, record, len(batch.targets)) for path, record in recorder.records.items()}
        ends = [end for record in recorder.records.values() for end in record.outputs]
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"layers are taken apart where the network returns one tensor, got {type(outputs).__name__}; use "
                f"scoring='gradients', or curvature='ggn' instead of EK-FAC"
            )
        if len(outputs) != len(batch.targets):
            raise ValueError(
                f"layers are taken apart where the network returns a row per example, got {len(outputs)} rows for "
                f"{len(batch.targets)} examples; use scoring='gradients', or curvature='ggn' instead of EK-FAC"
            )
        if self.companies is not None:
            self.companies.look(outputs.detach(), batch)
        uses = _Uses(layers, params, outputs, ends)
        witness = _Witness(outputs, recorder.records)
        for number, vectors in enumerate(self.sent_back(outputs.detach(), batch)):
            gradients = iter(uses.pulled(vectors.reshape(outputs.shape)))
            back = {path: _joined_outputs(record, gradients, len(outputs)) for path, record in recorder.records.items()}
            if check == "again":
                witness.note(vectors, back)
            elif check == "companies" and self.companies is not None:
                _check_own(self.companies, received, back)
            for path, sent in back.items():
                yield OuterProducts(path, received[path], sent, batch.weights, number == 0)
        if check == "again":
            gradients = iter(uses.pulled(witness.together))
            witness.check(
                {path: _joined_outputs(record, gradients, len(outputs)) for path, record in recorder.records.items()}
            )


@dataclass(frozen=True, eq=False)
class _Uses:
    """Derivatives in what layers returned, in whose calls their parameters are constants, see `RecordLayers`.

    Attributes:
        layers: Whose parameters are also asked for a gradient, that of another use.
        params: By name.
        outputs: The network's.
        ends: What the layers returned.
    """

    layers: tuple[KroneckerLayer, ...]
    params: Params
    outputs: Tensor
    ends: list[Tensor]

    def pulled(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """The gradients of vectors'f in what the layers returned.

        Raises:
            ValueError: If a layer's parameter has a gradient of another use.
        """
        owners = {name: layer.path for layer in self.layers for name in layer.names}
        wanted = [*self.ends, *(self.params[name] for name in owners)]
        found = torch.autograd.grad(self.outputs, wanted, vectors, retain_graph=True, allow_unused=True)
        for path, elsewhere in zip(owners.values(), found[len(self.ends) :], strict=True):
            if elsewhere is not None and bool(elsewhere.any()):
                raise ValueError(_incomplete(path))
        ends = zip(self.ends, found, strict=False)
        return tuple(torch.zeros_like(end) if gradient is None else gradient for end, gradient in ends)


def _check_own(
    companies: TwoCompanies, received: Mapping[str, Float[Tensor, "B L D"]], back: Mapping[str, Float[Tensor, "B L O"]]
) -> None:
    """Whether u'G_i v, for random u and v, is what it was in another company.

    Of every company the G_i add up to the gradient of its examples, and where none of them changes with the company,
    each is its example's own.

    Raises:
        ValueError: If it is not.
    """
    draws = torch.Generator().manual_seed(0)
    for path, rows in back.items():
        left, right = (torch.randn(one.shape[2], generator=draws).to(one) for one in (rows, received[path]))
        values = ((rows @ left) * (received[path] @ right)).sum(dim=1)
        before = companies.before(path, values)
        if before is not None and (values - before).norm() > torch.finfo(values.dtype).eps ** 0.5 * values.norm():
            raise ValueError(_incomplete(path))


class _Witness:
    """Whether rows that are taken for an example's own hear of nothing but that example.

    Sent back once more are all vectors s_i, added up with random shares c_ik: rows of an example then have to be what
    came back before, added up with its shares. One random projection of every row is kept.

    Args:
        outputs: Of the network.
        records: Of its layers.

    Attributes:
        together: sum_k c_ik s_ik, as the outputs.
    """

    def __init__(self, outputs: Tensor, records: Mapping[str, LayerRecord]) -> None:
        self.together = torch.zeros_like(outputs.detach())
        self._draws = torch.Generator().manual_seed(0)
        self._directions: dict[str, Tensor] = {}
        self._expected = {path: self.together.new_zeros(()) for path in records}

    def note(self, vectors: Float[Tensor, "B C"], back: Mapping[str, Float[Tensor, "B L O"]]) -> None:
        """Adds one vector, and what came back of it."""
        draws = self._draws
        shares = torch.rand(len(vectors), 1, generator=draws).to(vectors)
        self.together += (shares * vectors).view_as(self.together)
        for path, rows in back.items():
            self._expected[path] = self._expected[path] + shares * self._projected(path, rows)

    def check(self, back: Mapping[str, Float[Tensor, "B L O"]]) -> None:
        """Looks at what came back of all together.

        Raises:
            ValueError: If it is something else.
        """
        tolerance = torch.finfo(self.together.dtype).eps ** 0.5
        for path, rows in back.items():
            found = self._projected(path, rows)
            if (found - self._expected[path]).norm() > tolerance * found.norm():
                raise ValueError(_incomplete(path))

    def _projected(self, path: str, rows: Float[Tensor, "B L O"]) -> Float[Tensor, "B L"]:
        if path not in self._directions:
            draws = self._draws
            self._directions[path] = torch.randn(rows.shape[2], generator=draws).to(rows)
        return rows @ self._directions[path]


def _incomplete(path: str) -> str:
    return (
        f"the gradient of layer {path!r} is not made of what the layer receives and returns: its weight is used "
        f"elsewhere as well, or its first axis is not that of the examples; leave it out of the parameters, or take "
        f"another kind of curvature"
    )


def _joined(path: str, record: LayerRecord, examples: int) -> Float[Tensor, "B L D"]:
    """All calls of a layer, as further positions of one.

    Rows that are a multiple of the examples are taken for positions, example by example, as GPT-2's layers have them;
    that it is so the layer's gradient shows.

    Raises:
        ValueError: If the layer was not called, or its rows are no multiple of the examples.
    """
    if not record.inputs:
        raise ValueError(f"layer {path!r} takes no part in the network's outputs; leave it out of the selection")
    if any(len(inputs) % examples for inputs in record.inputs):
        raise ValueError(f"layer {path!r} must be called with the examples as its leading axis")
    return torch.cat([inputs.reshape(examples, -1, inputs.shape[-1]) for inputs in record.inputs], dim=1)


def _joined_outputs(record: LayerRecord, gradients: Iterator[Tensor], examples: int) -> Float[Tensor, "B L O"]:
    """Gradients in what a layer's calls returned, the next ones of all, as further positions of one."""
    calls = [next(gradients) for _ in record.outputs]
    if record.channels_first:
        calls = [call.flatten(2).transpose(1, 2) for call in calls]
    rows = [call.reshape(examples, -1, call.shape[-1]) for call in calls]
    return torch.cat(rows, dim=1) if len(rows) > 1 else rows[0]
