"""Why a network predicts a real number: rows that hold it up and down, and those that make it sure or unsure."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from rich.markup import escape
from torch import Tensor

from bayes_influence.experiments.attribution.ranking import Units, target_name
from bayes_influence.experiments.attribution.why.question import FOR_AND_AGAINST, UP_AND_DOWN, Effects, Question
from bayes_influence.experiments.training.real_report import RealPredicted, predict_real, predictions_table
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import EpistemicDeviation, PredictedValue
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Removals

REMOVED = [
    *("test", "target", "kind", "removed_ids", "estimated", "retrained", "predicted", "predicted_then"),
    *("deviation", "deviation_then"),
]
"""Columns of what removing rows does to predicted numbers."""


@dataclass(frozen=True, eq=False)
class OfNumbers(Question):
    """Why a network predicts the numbers that it predicts, see `Question`; each of several targets is asked about.

    Attributes:
        units: In which targets are told; as they are where they were not standardised.
        names: Of the targets; numbered where they have none.
    """

    units: Units | None
    names: tuple[str, ...]

    caption = "id (target): change of the number, or of a standard deviation, in the target's units, without the row"

    @property
    def targets(self) -> tuple[str, ...]:
        """Their names."""
        count = self.asked.tests.targets.reshape(len(self.asked.tests), -1).shape[1]
        return self.names or tuple(f"target {number}" for number in range(count))

    @property
    def own_units(self) -> Units:
        """Mean and standard deviation of every target."""
        zeros = torch.zeros(len(self.targets), dtype=torch.float64)
        return self.units or (zeros, zeros + 1)

    def effects(self, influence: Influence) -> dict[str, Effects]:
        """Of each number, and of its epistemic deviation if the network is Bayesian; the noise is one for all rows."""
        found, tests = {}, self.asked.tests
        for index, (name, scale) in enumerate(zip(self.targets, self.own_units[1].tolist(), strict=True)):
            numbers = influence.on_measurement(PredictedValue(target=index), tests)
            found[self._called("prediction", name)] = Effects(scale * numbers.removal, UP_AND_DOWN)
            if self.asked.objective.is_bayesian:
                deviations = influence.on_measurement(EpistemicDeviation(target=index), tests)
                found[self._called("epistemic", name)] = Effects(scale * deviations.removal, FOR_AND_AGAINST)
        return found

    def described(self) -> pd.DataFrame:
        """Numbers, intervals and deviations."""
        asked = self.asked
        predicted = predict_real(asked.objective, asked.tests, asked.train)
        count = len(self.targets)
        tests = {"test": [position for position in self.positions for _ in range(count)]}
        table = predictions_table(_rows(predicted), asked.tests, self.targets, self.own_units)
        deviation = predicted.deviation.reshape(-1, count).double().cpu() * self.own_units[1]
        told = table.rename(columns={"id": "test_id"}).assign(deviation=deviation.reshape(-1).numpy())
        return pd.concat([pd.DataFrame(tests), told], axis=1)

    def removed(self, effects: dict[str, Effects]) -> pd.DataFrame:
        """Without the first rows that hold each number up, and without those that hold it down, where there are any."""
        asked, rows, groups = self.asked, [], []
        for index, test in enumerate(self.positions):
            for number, name in enumerate(self.targets):
                effect = effects[self._called("prediction", name)]
                for kind in UP_AND_DOWN:
                    places = effect.first(index, kind, self.top)
                    if len(places):
                        groups.append(asked.train.ids[places])
                        rows.append((index, number, places, {"test": test, "target": name, "kind": kind}, effect))
        if not groups:
            return pd.DataFrame(columns=REMOVED)
        refits = asked.protocol.refit(asked.network, asked.train, Removals.of_groups(groups, 1))
        control = self._told(refits.at(0, 0))
        told = []
        for group, (index, number, places, known, effect) in enumerate(rows, start=1):
            after = self._told(refits.at(0, group))
            told.append(
                known
                | {
                    "removed_ids": " ".join(map(str, groups[group - 1].tolist())),
                    "estimated": float(effect.removal[index][places].sum()),
                    "retrained": float(after[0][index, number] - control[0][index, number]),
                    "predicted": float(control[0][index, number]),
                    "predicted_then": float(after[0][index, number]),
                    "deviation": float(control[1][index, number]),
                    "deviation_then": float(after[1][index, number]),
                }
            )
        return pd.DataFrame(told, columns=REMOVED)

    def _told(self, objective: Objective) -> tuple[Float[Tensor, "t K"], Float[Tensor, "t K"]]:
        """Predicted numbers and their deviations, in the targets' units."""
        predicted = _rows(predict_real(objective, self.asked.tests, self.asked.train))
        shift, scale = self.own_units
        return predicted.mean.double().cpu() * scale + shift, predicted.deviation.double().cpu() * scale

    def _called(self, what: str, name: str) -> str:
        """A measurement, of which target where there are several."""
        return what if len(self.targets) == 1 else f"{what} of {name}"

    def target_of(self, place: int) -> str:
        """The numbers."""
        return target_name(self.asked.train, self.asked.train.targets[place], self.units)

    def title(self, described: pd.DataFrame) -> str:
        """Numbers, and their intervals."""
        first = described.iloc[0]
        parts = [
            f"{escape(one['target'])} {one['true']:.4g}, predicted {one['predicted']:.4g} (95 % interval "
            f"{one['low']:.4g} to {one['high']:.4g})"
            for _, one in described.iterrows()
        ]
        return f"test {first['test']} (id {first['test_id']}): {'; '.join(parts)}"

    def heading(self, measurement: str, kind: str) -> str:
        """Holds it up or down, surer or less sure."""
        if measurement.startswith("prediction"):
            return f"holds the {measurement} {kind}"
        return f"makes it {'surer' if kind == 'for' else 'less sure'} ({measurement})"

    def sentence(self, removed: pd.Series) -> str:
        """The number and its deviation."""
        return (
            f"test {removed['test']} without {removed['removed_ids']}, which hold it {removed['kind']}: the predicted "
            f"{removed['target']} changes by {removed['estimated']:+.3g} as estimated, {removed['retrained']:+.3g} as "
            f"retrained, from {removed['predicted']:.4g} to {removed['predicted_then']:.4g}; its deviation is then "
            f"{removed['deviation_then']:.3g} instead of {removed['deviation']:.3g}"
        )


def _rows(predicted: RealPredicted) -> RealPredicted:
    """The same with a column per target, also of one."""
    return RealPredicted(*(part.reshape(len(part), -1) for part in (predicted.mean, predicted.deviation)))
