"""Examples passing through a network, and what is checked of all that pass: that an example's loss is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.streamed import StreamedDataset
from bayes_influence.objectives.closeness import check_same
from bayes_influence.objectives.hidden import ByNameAlone, KeptState
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.other_company import COMPANY, OtherCompany, Passed
from bayes_influence.objectives.predictive import check_outputs
from bayes_influence.objectives.torch_errors import network_errors_in_words, torch_errors_in_words
from bayes_influence.objectives.ways import first_way
from bayes_influence.torch_internals import tree_leaves, tree_map

ENTRIES = 1_000_000
"""Numbers of inputs that go through the network at a time. The intermediate values are then some 10 MB for a last layer
of ten outputs and some fifty for a small convolutional network; larger parts cost time, too: fresh memory has to be
mapped for each."""

GROUPS = 16
"""Two examples that mix are in one of so many groups once in so many times."""

FEW_NUMBERS = 50_000
"""Numbers up to which every example is evaluated alone in any case: a forward pass of some milliseconds."""

MOST_ALONE = 16
"""Examples of a batch, at most, that are read and put together alone, where a collate function may pad."""


LARGEST_KEPT = 32_000_000
"""Bytes; glibc keeps its bounds for blocks of more than 32 MiB."""


def examine(
    objective: Objective,
    data: Dataset,
    call: Callable[[Any, ByNameAlone], Passed],
    take: Callable[[Passed], None],
    hold: Callable[[Any, Any], None] = lambda *_: None,
    *,
    every: bool,
) -> None:
    """Passes all examples through a network, and refuses what no estimate of single examples could stand on.

    Every parameter is reached by its name alone; losses are finite, one per example, and the same in other company and,
    where a collate function makes the batches, in a batch of the example alone; nothing that the network keeps from
    one call changes the next. Costs the pass and some per cent of it; another one, of every example alone, where that
    is asked for or the examples are few; and a few microseconds per operation.

    Args:
        objective: Whose network, where it stands.
        data: The examples.
        call: The forward pass on some inputs, within the watch that it is given.
        take: Given what came of every part.
        hold: Given the last layer's inputs of some examples of every part, as they came and as they come in other
            company, which is to be the same.
        every: Whether every example is evaluated alone, whatever it costs.

    Raises:
        InseparableLossError: If the likelihood was made of a loss over batches that is no mean.
        TypeError: If the targets are of another kind than the likelihood's.
        ValueError: If anything else of that is not so.
    """
    start = 0
    numbers = _numbers(objective, data)
    _keep_mapped()
    with objective.exclusive() as network:
        kept = KeptState(network)
        watch = ByNameAlone(network, own_params(objective))
        others = OtherCompany(objective, data.name, lambda inputs: call(inputs, watch), hold, kept)
        try:
            for part, ids in _parts(objective, data, numbers):
                whole = call(part.inputs, watch)
                losses = _checked_losses(objective, part, data.name, ids, whole.outputs)
                if every or _are_few(numbers, part):
                    check_same(losses, _alone(objective, part), data.name, (len(losses), 1))
                others.add(part, ids, losses, whole.features)
                _check_alone(objective, data, start, losses, call, watch, part, numbers)
                take(whole)
                start += len(losses)
            others.meet()
        finally:
            kept.restore()


@cache
def _keep_mapped() -> None:
    """Has the C library keep memory that is freed for what is asked for next, once in a process.

    glibc gives large blocks back to the system when they are freed, and everything that a network computes then pays
    for new ones: a quarter of the time of a convolutional network on a processor. The largest block of the kind that it
    counts, made and freed, moves its bounds to where they stay (`man mallopt`, M_MMAP_THRESHOLD), so that up to 64 MiB
    are kept. The block is never touched.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8)


def own_params(objective: Objective) -> dict[str, Tensor]:
    """The parameters where an objective stands, none of them an `nn.Parameter`."""
    return {name: value.detach() for name, value in objective.params.items()}


def first_outputs(objective: Objective, inputs: Any, name: str = "the examples") -> Any:
    """What the network returns for a few examples before long work, every parameter reached by its name alone.

    Args:
        objective: Where it stands.
        inputs: Of these examples.
        name: What they are called.

    Raises:
        ValueError: If the network fails on them; or see `ByNameAlone`.
    """
    params = own_params(objective)
    with objective.exclusive() as network:
        kept = KeptState(network)
        try:
            inputs = objective.fitting(inputs)
            with (
                torch.no_grad(),
                ByNameAlone(network, params),
                network_errors_in_words(f"{name}: the network fails", network, inputs),
            ):
                return objective.outputs(params, inputs)
        finally:
            kept.restore()


def check_targets(objective: Objective, data: Dataset) -> None:
    """Refuses targets that do not fit what the likelihood says of the outputs; two examples are evaluated.

    Nothing is refused of targets where it does not say what they mean.

    Args:
        objective: Whose likelihood.
        data: Whose targets.

    Raises:
        TypeError: If outputs or targets are of another kind.
        ValueError: If they do not fit, data set and example are named; or see `ByNameAlone`.
    """
    first = data.select(range(min(2, len(data))))
    outputs = first_outputs(objective, first.batch().inputs, data.name)
    seen = data if data.holds_targets else first
    check_outputs(objective.likelihood, outputs, seen.targets, data.name, seen.ids)


def numbers_per_example(inputs: Any, leading: int = 1) -> int:
    """How many numbers one example's inputs are.

    Args:
        inputs: Any nesting of tensors.
        leading: Axes before those of one example.
    """
    return max(1, sum(leaf.shape[leading:].numel() for leaf in tree_leaves(inputs)))


def _numbers(objective: Objective, data: Dataset) -> int:
    """How many numbers one example is to the network."""
    example = data.example.inputs
    numbers = numbers_per_example(example)
    if not any(leaf.is_floating_point() for leaf in tree_leaves(example)):
        # Tokens stand for vectors, of whose length what the network returns says more.
        first = data.select(range(min(2, len(data)))).batch()
        returned = tree_leaves(first_outputs(objective, first.inputs, data.name))
        numbers = max(numbers, sum(leaf.shape[1:].numel() for leaf in returned if isinstance(leaf, Tensor)))
    return numbers


def _parts(objective: Objective, data: Dataset, numbers: int) -> Iterator[tuple[Batch, Tensor]]:
    """The examples in the dtype of the parameters, and their ids, as many at a time as `ENTRIES` says."""
    size = max(1, ENTRIES // numbers)
    for batch, ids in zip(data.batches(size), data.ids.split(size), strict=True):
        yield objective.fitting(batch), ids


def _checked_losses(objective: Objective, part: Batch, name: str, ids: Tensor, outputs: Any) -> Float[Tensor, " B"]:
    with torch.no_grad(), torch_errors_in_words(f"{name}: the losses fail", part.targets):
        objective.check_batch(outputs, part, name, ids)
        losses = objective.losses_of(outputs, part).detach()
    bad = ~torch.isfinite(losses)
    if bad.any():
        raise ValueError(
            f"{name}: {int(bad.sum())} of {len(losses)} losses are not finite; check the inputs' scale, the "
            f"targets, and that the network was trained to its end"
        )
    return losses


def _are_few(numbers: int, part: Batch) -> bool:
    return len(part.targets) * numbers <= FEW_NUMBERS


def _alone(objective: Objective, part: Batch) -> Float[Tensor, " B"]:
    """The loss of every example alone, at once where torch can; where it cannot, in `GROUPS` groups, drawn by lot."""
    params = own_params(objective)

    def of_one(example: Batch) -> Tensor:
        return objective.losses(params, tree_map(lambda leaf: leaf.unsqueeze(0), example))[0]

    def quick() -> Tensor:
        try:
            return vmap(of_one, randomness="different")(part)
        except ValueError as error:  # of a layer that takes no single example
            raise RuntimeError(str(error)) from error

    def patient() -> Tensor:
        length = len(part.targets)
        order = torch.randperm(length, generator=torch.Generator().manual_seed(0)).to(part.targets.device)
        groups = [tree_map(lambda leaf, rows=rows: leaf[rows], part) for rows in order.chunk(min(GROUPS, length))]
        found = torch.cat([objective.losses(params, group) for group in groups])
        return torch.empty_like(found).index_copy_(0, order, found)

    with torch.no_grad():
        return first_way(objective.network, "losses", quick, patient)


def _check_alone(
    objective: Objective,
    data: Dataset,
    start: int,
    losses: Tensor,
    call: Callable[[Any, ByNameAlone], Passed],
    watch: ByNameAlone,
    part: Batch,
    numbers: int,
) -> None:
    """Refuses losses that are others where a collate function has the example alone, twice over."""
    if not (isinstance(data, StreamedDataset) and data.is_collated):
        return
    count = min(len(losses), MOST_ALONE if _are_few(numbers, part) else 1 + len(losses) // COMPANY, MOST_ALONE)
    for row in torch.linspace(0, len(losses) - 1, count).long().tolist():
        twice = objective.fitting(data.gathered(torch.tensor([start + row, start + row])))
        with torch.no_grad():
            own = objective.losses_of(call(twice.inputs, watch).outputs, twice).detach()
        before = losses[row].expand(2)
        check_same(before, own, data.name, (len(losses), 1), ", as the collate function makes it")
