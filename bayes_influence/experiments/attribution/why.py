"""Why a run predicts what it predicts: the rows behind it, how sure it is, and what happens without the first ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from rich.table import Table
from torch import Tensor

from bayes_influence.data.appearance import class_name
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.experiments.attribution.of_run import InfluenceRequest
from bayes_influence.experiments.audit.jobs import on_features
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.run import load_run
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import MutualInformation, PredictiveEntropy
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.prediction import Prediction, predict_classes
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.minimum import minimised
from bayes_influence.training.schedules import Schedule

REFIT = Schedule(1000)
"""Of a retraining where there is no minimum to go to."""

DAMPING = 1e-6
"""Of the estimate in a last layer at its minimum, whose curvature needs none; an audit asks for a positive one."""

SIGNS = {"for": 1, "against": -1}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a run predicts what it predicts of some test examples.

    Attributes:
        folder: Where the tables are stored, as CSV.
        predictions: One row per test example: test (its position), test_id, label, predicted, probability of that
            class, entropy, epistemic and aleatoric uncertainty in nats.
        evidence: One row per test example, measurement and rank. measurement: "prediction", the loss of the predicted
            class; "epistemic", "aleatoric"; kind: "for" what holds the prediction, or the certainty, up, so that
            removing it raises the loss or the uncertainty, "against" the opposite; train_id, train_target, removal.
        removed: Per test example what removing the rows of `removed_ids`, the first for the prediction, does together:
            to the loss of the predicted class, estimated (the sum of their effects) and retrained, and the predicted
            class and its probability then.
        verdict: How far estimates can be trusted, from retraining without a few examples.
    """

    folder: Path
    predictions: pd.DataFrame
    evidence: pd.DataFrame
    removed: pd.DataFrame
    verdict: str


@dataclass(frozen=True, eq=False)
class AskedRun:
    """A network in float64, what it learned from, and what it is asked about: last layers, as features.

    Attributes:
        network: At the minimum of its last layer, where it has one.
        train: Its training examples.
        tests: The test examples.
        exact: Whether it stands at that minimum.
    """

    network: Members
    train: Dataset
    tests: Dataset
    exact: bool

    @property
    def objective(self) -> Objective:
        """The network's."""
        return self.network.at(0)

    @property
    def protocol(self) -> RetrainingProtocol:
        """How it is retrained."""
        return Minimum() if self.exact else Warm(REFIT)

    def predicted(self) -> Prediction:
        """Of the test examples."""
        return predict_classes(self.objective, self.tests.inputs)


def explain_run(
    run: str | Path,
    out: str | Path,
    request: InfluenceRequest,
    *,
    removals: int = 8,
    data_folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Explanation:
    """Explains the predicted classes of some test examples of a finished run.

    A regularised last layer is brought to its minimum first, where estimate and retraining mean the same, and takes a
    damping of `DAMPING` when none is asked for; other networks are explained as training left them.

    Args:
        run: Folder of the run.
        out: The result folder.
        request: Which test examples; `top` is the number of rows named of each kind, and removed together.
        removals: Training examples without which estimates are held against retraining.
        data_folder: Where image sets are kept.
        device: Where it is computed; where the run was trained when not given.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, predicts no classes, or has not so many training examples.
    """
    objective, split, config = load_run(run, index=request.index, data_folder=data_folder, device=device)
    if split.train.targets.is_floating_point():
        raise ValueError(
            f"the run in {run} predicts no classes; `bayes-influence influence` says which rows shaped other targets"
        )
    if not MIN_POINTS <= removals < len(split.train) or request.top >= len(split.train):
        raise ValueError(
            f"of {len(split.train)} training examples {MIN_POINTS} to {len(split.train) - 1} can be removed, got "
            f"removals={removals} and top={request.top}"
        )
    positions = request.positions(split.test)
    objective, _ = request.standing(objective, split.train, progress=progress)
    asked = asked_of_run(objective, split.train, split.test.select(positions), request)
    said = {name: value for name, value in request.to_config().items() if name not in ("test_ids", "on", "tests")}
    folder = StudyFolder(
        out, {"study": "why", "run": config, **said, "tests": asked.tests.ids.tolist(), "removals": removals}
    )
    before = asked.predicted()
    if asked.exact and request.damping is None:
        request = replace(request, damping=DAMPING)
    influence = request.influence(asked.objective, asked.train, progress=progress)
    effects = _effects(influence, asked, before)
    evidence = pd.concat([_ranked(name, effect, asked, positions, request.top) for name, effect in effects.items()])
    settings = AuditSettings(removals=removals, curvature="hessian", damping=request.damping, refit_schedule=REFIT)
    verdict = audit(asked.network, asked.train, asked.tests, settings, progress=False).verdict.sentence
    tables = {
        "why": evidence.reset_index(drop=True),
        "predictions": _described(asked, before, positions),
        "removed": _removed(asked, before, effects["prediction"], positions, request.top),
    }
    folder.write_file("verdict.txt", f"{verdict}\n".encode())
    for name, table in tables.items():
        folder.write_table(name, table)
    return Explanation(folder.path, tables["predictions"], tables["why"], tables["removed"], verdict)


def asked_of_run(objective: Objective, train: Dataset, tests: Dataset, request: InfluenceRequest) -> AskedRun:
    """The network of a run for some test examples, its last layer at the minimum where it has one.

    Args:
        objective: The network.
        train: Its training examples.
        tests: Test examples.
        request: Says in which parameters influence is taken.
    """
    members = Members.of(objective.taking(request.parameters))
    ((network, own, seen),), is_head = on_features(members, train, tests)
    exact = is_head and network.objective.is_regularised
    return AskedRun(minimised(network, own).members if exact else network, own, seen, exact)


def _effects(influence: Influence, asked: AskedRun, before: Prediction) -> dict[str, Float[Tensor, "t n"]]:
    """Predicted changes, by removal of each training example, of the predicted class's loss and of uncertainties."""
    likely = Dataset(asked.tests.inputs, before.classes.to(asked.tests.targets), asked.tests.ids, asked.tests.name)
    return {"prediction": influence.on_loss(likely).removal, **uncertainty_effects(influence, asked)}


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
    likelihood = objective.likelihood
    with torch.no_grad():
        outputs = objective.outputs(objective.params, tests.inputs)
        total = PredictiveEntropy(likelihood)(outputs, tests.targets)
        if not objective.is_bayesian:
            return {"aleatoric": total}
        epistemic = MutualInformation(likelihood)(outputs, tests.targets)
    return {"epistemic": epistemic, "aleatoric": total - epistemic}


def _ranked(
    measurement: str, effects: Float[Tensor, "t n"], asked: AskedRun, positions: list[int], top: int
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for test, effect in zip(positions, effects, strict=True):
        for kind, sign in SIGNS.items():
            for rank, place in enumerate(_first(sign * effect, top).tolist(), start=1):
                train_id, label = int(asked.train.ids[place]), class_name(asked.train, int(asked.train.targets[place]))
                rows.append(
                    {"test": test, "measurement": measurement, "kind": kind, "rank": rank, "train_id": train_id}
                    | {"train_target": label, "removal": float(effect[place])}
                )
    return pd.DataFrame(rows)


def _described(asked: AskedRun, before: Prediction, positions: list[int]) -> pd.DataFrame:
    chosen = before.classes
    found = uncertainties(asked.objective, asked.tests)
    epistemic = found.get("epistemic", torch.zeros_like(found["aleatoric"]))
    return pd.DataFrame(
        {
            "test": positions,
            "test_id": asked.tests.ids.tolist(),
            "label": [class_name(asked.tests, target) for target in asked.tests.targets.tolist()],
            "predicted": [class_name(asked.tests, target) for target in chosen.tolist()],
            "probability": before.probabilities.gather(1, chosen[:, None])[:, 0].tolist(),
            "entropy": (epistemic + found["aleatoric"]).tolist(),
            "epistemic": epistemic.tolist(),
            "aleatoric": found["aleatoric"].tolist(),
        }
    )


def _removed(
    asked: AskedRun, before: Prediction, effects: Float[Tensor, "t n"], positions: list[int], top: int
) -> pd.DataFrame:
    """What removing the first rows for each prediction does, estimated and retrained; changes are to the control."""
    firsts = [_first(effect, top) for effect in effects]
    groups = [asked.train.ids[places] for places in firsts]
    refits = asked.protocol.refit(asked.network, asked.train, Removals.of_groups(groups, 1))
    control = predict_classes(refits.at(0, 0), asked.tests.inputs)
    losses = _losses(refits.at(0, 0), asked.tests, before.classes)
    rows = []
    for index, (test, places) in enumerate(zip(positions, firsts, strict=True)):
        refitted, chosen = refits.at(0, index + 1), int(before.classes[index])
        after = predict_classes(refitted, asked.tests.inputs)
        change = _losses(refitted, asked.tests, before.classes)[index] - losses[index]
        rows.append(
            {
                "test": test,
                "removed_ids": " ".join(map(str, groups[index].tolist())),
                "estimated": float(effects[index][places].sum()),
                "retrained": float(change),
                "predicted": class_name(asked.tests, chosen),
                "predicted_then": class_name(asked.tests, int(after.classes[index])),
                "probability": float(control.probabilities[index, chosen]),
                "probability_then": float(after.probabilities[index, chosen]),
            }
        )
    return pd.DataFrame(rows)


def _first(effect: Float[Tensor, " n"], top: int) -> Int[Tensor, " k"]:
    return effect.argsort(descending=True, stable=True)[:top]


def _losses(objective: Objective, tests: Dataset, classes: Int[Tensor, " t"]) -> Float[Tensor, " t"]:
    likely = Dataset(tests.inputs, classes.to(tests.targets), tests.ids, tests.name)
    with torch.no_grad():
        return objective.losses(objective.params, likely.batch())


def printed_explanation(found: Explanation) -> list[Table]:
    """One table per test example, as it is printed.

    Args:
        found: The explanation.
    """
    tables = []
    for test in found.predictions.to_dict("records"):
        rows = found.evidence[found.evidence["test"] == test["test"]]
        table = Table(
            title=f"test {test['test']} (id {test['test_id']}): {test['label']}, predicted {test['predicted']} with "
            f"probability {test['probability']:.3g}; uncertainty epistemic {test['epistemic']:.2g}, aleatoric "
            f"{test['aleatoric']:.2g}",
            caption="id (class): change of the loss of the predicted class, or of the uncertainty, without the row",
        )
        table.add_column("rank", justify="right")
        wanted = [(name, kind) for name in rows["measurement"].unique() for kind in SIGNS]
        for name, kind in wanted:
            table.add_column(_heading(name, kind))
        for rank in sorted(rows["rank"].unique()):
            cells = [
                rows[(rows["measurement"] == name) & (rows["kind"] == kind) & (rows["rank"] == rank)].iloc[0]
                for name, kind in wanted
            ]
            table.add_row(str(rank), *(f"{one.train_id} ({one.train_target}): {one.removal:+.2e}" for one in cells))
        tables.append(table)
    return tables


def _heading(name: str, kind: str) -> str:
    if name == "prediction":
        return f"{kind} the prediction"
    return f"makes it {'surer' if kind == 'for' else 'less sure'} ({name})"


def removal_sentences(found: Explanation) -> list[str]:
    """What the prediction is without its first rows, a sentence per test example.

    Args:
        found: The explanation.
    """
    return [
        f"test {one['test']} without {one['removed_ids']}: the loss of {one['predicted']} changes by "
        f"{one['estimated']:+.3g} as estimated, {one['retrained']:+.3g} as retrained; predicted is then "
        f"{one['predicted_then']}, the probability of {one['predicted']} {one['probability_then']:.3g} instead of "
        f"{one['probability']:.3g}"
        for one in found.removed.to_dict("records")
    ]
