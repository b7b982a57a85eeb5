"""`culprit_feature`: the feature through which training rows mislead a prediction (Koh & Liang 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.arguments import check_count
from bayes_influence.curvature.kinds import CurvatureLike
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.influence.directional import loss_slopes
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.members import check_objective
from bayes_influence.objectives.objective import Objective


@dataclass(frozen=True, eq=False)
class CulpritFeature:
    """Training rows that move a test loss, and the features through which they do it.

    Attributes:
        ids: (k,) of the rows, that of the largest influence first where they were not given.
        removal: (k,) predicted change of the mean test loss when each is removed.
        effects: (k, d) predicted change of it when a row has the median of a feature in place of its own entry.
        strengths: (d,) mean of |effects| over the rows.
        order: (d,) columns, the strongest first.
        names: (d,) of the features, "feature j" where the data name none.
    """

    ids: Int[Tensor, " k"]
    removal: Float[Tensor, " k"]
    effects: Float[Tensor, "k d"]
    strengths: Float[Tensor, " d"]
    order: Int[Tensor, " d"]
    names: tuple[str, ...]

    @property
    def feature(self) -> int:
        """Column of the strongest."""
        return int(self.order[0])

    @property
    def name(self) -> str:
        """What it is called."""
        return self.names[self.feature]


def culprit_feature(
    objective: Objective,
    train: Dataset,
    test: Dataset,
    count: int = 4,
    *,
    ids: int | Iterable[int] | Tensor | None = None,
    curvature: CurvatureLike = "hessian",
    damping: str | float = 0.0,
) -> CulpritFeature:
    """The feature that explains why a few training rows move a test loss as they do.

    Giving row i the median of feature j in place of x_ij, which makes z_i a z_ij, changes the mean test loss by

        c_ij = -(1/n) g_t' (H + D)^-1 (grad l(z_ij) - grad l(z_i))

    to first order in the weights of the two (Koh & Liang 2017, eq. 3). For a small difference this is their eq. 5, the
    derivative I_pert,loss times the difference, whose size they compare over features. Entries of a table may be far
    from their median, as an indicator is, where that derivative need not even have the sign of the change. c_ij has no
    units of the feature in it, and is 0 for an entry that is the median, of an even number of rows the lower of the two
    in the middle.

    Args:
        objective: At its fitted parameters.
        train: Training rows, inputs of shape (n, d).
        test: The examples whose mean loss is explained: one that is predicted wrongly, most often.
        count: How many rows are asked: those of the largest |influence| on that loss.
        ids: Which instead, when they are chosen already.
        curvature: As of `Influence`: of a whole network that stands at no minimum `"ggn"`, which cannot be indefinite.
        damping: Of the influence; none is needed at the minimum of a regularised objective, and any shrinks effects.

    Raises:
        TypeError: If these are no objective and data sets.
        ValueError: If the inputs are no table, there are not so many rows, or an id is unknown.
    """
    check_objective(objective, "what is explained")
    check_dataset(train, "the training examples")
    check_dataset(test, "the test examples")
    check_count(count=count)
    if not isinstance(train.inputs, Tensor) or train.inputs.ndim != 2 or not train.inputs.is_floating_point():
        got = f"{tuple(train.inputs.shape)}, {train.inputs.dtype}" if isinstance(train.inputs, Tensor) else "several"
        raise ValueError(
            f"{train.name}: a culprit feature is a column of a table, real inputs of shape (n, d), got {got}; of other "
            "inputs `Influence.of_perturbation` says which entries matter"
        )
    if count > len(train):
        raise ValueError(f"at most all {len(train)} training rows can be asked, got count={count}")
    influence = Influence(objective, train, curvature=curvature, damping=damping)
    removal = influence.on_loss(test).removal.mean(dim=0)
    chosen = removal.abs().argsort(descending=True, stable=True)[:count] if ids is None else train.positions(ids)
    effects = _effects(influence, train.at(train.ids[chosen]), test, train.inputs.median(dim=0).values)
    strengths = effects.abs().mean(dim=0)
    order = strengths.argsort(descending=True, stable=True)
    names = train.feature_names or tuple(f"feature {column}" for column in range(len(order)))
    return CulpritFeature(train.ids[chosen], removal[chosen], effects, strengths, order, names)


def _effects(influence: Influence, rows: Dataset, test: Dataset, medians: Float[Tensor, " d"]) -> Float[Tensor, "k d"]:
    """c_ij: the change of the mean test loss when entry j of row i becomes the median."""
    problem, (k, d) = influence.problem, rows.inputs.shape
    changed = rows.inputs[:, None].repeat(1, d, 1)
    changed.diagonal(dim1=1, dim2=2).copy_(medians.expand(k, d))
    again = torch.arange(k, device=rows.ids.device).repeat_interleave(d)
    weights = None if rows.weights is None else rows.weights[again]
    moved = Dataset(changed.flatten(0, 1), rows.targets[again], torch.arange(k * d), rows.name, weights=weights)
    solved = influence.response.solve(problem.gradients(*problem.taken(test)).mean(dim=0)).value

    def slopes(data: Dataset) -> Tensor:
        taken, own = problem.taken(data)
        return loss_slopes(own, taken, solved, problem.batch_size)

    return -(slopes(moved).reshape(k, d) - slopes(rows)[:, None]) / influence.response.n_train
