"""Why a network predicts a class: rows for and against it, and those that make it sure or unsure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Float, Int
from rich.markup import escape
from torch import Tensor

from bayes_influence.data.appearance import class_name
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.ranking import named
from bayes_influence.experiments.attribution.why.asked import AskedRun
from bayes_influence.experiments.attribution.why.question import FOR_AND_AGAINST, Effects, Question
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import MutualInformation, PredictiveEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.prediction import Prediction, predict_classes
from bayes_influence.objectives.reweighting import Removals

REMOVED = [
    *("test", "removed_ids", "estimated", "retrained", "predicted", "predicted_then"),
    *("probability", "probability_then"),
]
"""Columns of what removing rows does to predicted classes."""


@dataclass(frozen=True, eq=False)
class OfClasses(Question):
    """Why a network predicts the classes that it predicts, see `Question`."""

    caption = "id (class): change of the loss of the predicted class, or of the uncertainty, without the row"

    @cached_property
    def before(self) -> Prediction:
        """Of the test examples, with every training example."""
        return predict_classes(self.asked.objective, self.asked.tests.inputs)

    def effects(self, influence: Influence) -> dict[str, Effects]:
        """Of the predicted class's loss and of uncertainties."""
        likely = _labelled(self.asked.tests, self.before.classes)
        changes = {"prediction": influence.on_loss(likely).removal, **uncertainty_effects(influence, self.asked)}
        return {name: Effects(change, FOR_AND_AGAINST) for name, change in changes.items()}

    def described(self) -> pd.DataFrame:
        """Classes, probabilities and uncertainties."""
        tests, chosen = self.asked.tests, self.before.classes
        found = uncertainties(self.asked.objective, tests)
        epistemic = found.get("epistemic", torch.zeros_like(found["aleatoric"]))
        return pd.DataFrame(
            {
                "test": self.positions,
                "test_id": tests.ids.tolist(),
                "label": [class_name(tests, target) for target in tests.targets.tolist()],
                "predicted": [class_name(tests, target) for target in chosen.tolist()],
                "probability": self.before.probabilities.gather(1, chosen[:, None])[:, 0].tolist(),
                "entropy": (epistemic + found["aleatoric"]).tolist(),
                "epistemic": epistemic.tolist(),
                "aleatoric": found["aleatoric"].tolist(),
            }
        )

    def removed(self, effects: dict[str, Effects]) -> pd.DataFrame:
        """Without the first rows for each prediction that some are for; changes are to the control."""
        tests, effect = self.asked.tests, effects["prediction"]
        firsts = [(index, effect.first(index, "for", self.top)) for index in range(len(tests))]
        firsts = [(index, places) for index, places in firsts if len(places)]
        if not firsts:
            return pd.DataFrame(columns=REMOVED)
        groups = [self.asked.train.ids[places] for _, places in firsts]
        refits = self.asked.protocol.refit(self.asked.network, self.asked.train, Removals.of_groups(groups, 1))
        control = predict_classes(refits.at(0, 0), tests.inputs)
        losses = _losses(refits.at(0, 0), tests, self.before.classes)
        rows = []
        for group, (index, places) in enumerate(firsts):
            refitted, chosen = refits.at(0, group + 1), int(self.before.classes[index])
            after = predict_classes(refitted, tests.inputs)
            change = _losses(refitted, tests, self.before.classes)[index] - losses[index]
            rows.append(
                {
                    "test": self.positions[index],
                    "removed_ids": " ".join(map(str, groups[group].tolist())),
                    "estimated": float(effect.removal[index][places].sum()),
                    "retrained": float(change),
                    "predicted": class_name(tests, chosen),
                    "predicted_then": class_name(tests, int(after.classes[index])),
                    "probability": float(control.probabilities[index, chosen]),
                    "probability_then": float(after.probabilities[index, chosen]),
                }
            )
        return pd.DataFrame(rows, columns=REMOVED)

    def target_of(self, place: int) -> str:
        """The class."""
        return class_name(self.asked.train, int(self.asked.train.targets[place]))

    def title(self, described: pd.DataFrame) -> str:
        """Label, predicted class and uncertainties."""
        test = described.iloc[0]
        label, predicted = escape(test["label"]), escape(test["predicted"])
        return (
            f"test {test['test']} (id {named(test, 'test')}): {label}, predicted {predicted} with "
            f"probability {test['probability']:.3g}; uncertainty epistemic {test['epistemic']:.2g}, aleatoric "
            f"{test['aleatoric']:.2g}"
        )

    def heading(self, measurement: str, kind: str) -> str:
        """For or against the prediction, surer or less sure."""
        if measurement == "prediction":
            return f"{kind} the prediction"
        return f"makes it {'surer' if kind == 'for' else 'less sure'} ({measurement})"

    def sentence(self, removed: pd.Series) -> str:
        """Loss, predicted class and its probability."""
        return (
            f"test {removed['test']} without {removed['removed_ids']}: the loss of {removed['predicted']} changes by "
            f"{removed['estimated']:+.3g} as estimated, {removed['retrained']:+.3g} as retrained; predicted is then "
            f"{removed['predicted_then']}, the probability of {removed['predicted']} "
            f"{removed['probability_then']:.3g} instead of {removed['probability']:.3g}"
        )


def uncertainty_effects(influence: Influence, asked: AskedRun) -> dict[str, Float[Tensor, "t n"]]:
    """Predicted changes of the test examples' epistemic and aleatoric uncertainty when a training example is removed.

    The epistemic part is the mutual information, the aleatoric part the entropy without it; all of the entropy of a
    deterministic network.

    Args:
        influence: In the network's last layer.
        asked: Network and test examples.
    """
    total = influence.on_measurement(PredictiveEntropy(), asked.tests).removal
    if not asked.objective.is_bayesian:
        return {"aleatoric": total}
    epistemic = influence.on_measurement(MutualInformation(), asked.tests).removal
    return {"epistemic": epistemic, "aleatoric": total - epistemic}


def uncertainties(objective: Objective, tests: Dataset) -> dict[str, Float[Tensor, " t"]]:
    """The uncertainties of which `uncertainty_effects` predicts the changes, in nats.

    Args:
        objective: The network, where it stands.
        tests: Test examples.
    """
    total = PredictiveEntropy().at(objective, tests)
    if not objective.is_bayesian:
        return {"aleatoric": total}
    epistemic = MutualInformation().at(objective, tests)
    return {"epistemic": epistemic, "aleatoric": total - epistemic}


def _labelled(tests: Dataset, classes: Int[Tensor, " t"]) -> Dataset:
    """The same examples with other classes."""
    return Dataset(tests.inputs, classes.to(tests.targets), tests.ids, tests.name)


def _losses(objective: Objective, tests: Dataset, classes: Int[Tensor, " t"]) -> Float[Tensor, " t"]:
    with torch.no_grad():
        return objective.losses(objective.params, _labelled(tests, classes).batch())
