"""Whom one prediction rests on: the group that holds it, the feature through which rows mislead it, and how to turn it.

    python scripts/explain_prediction.py

Logistic regression on breast cancer, a few seconds. Every statement is checked by a refit.
"""

import torch
from torch import nn

import bayes_influence as bi


def main() -> None:
    """Explains a test row that is predicted wrongly, and attacks one that is predicted rightly."""
    split = bi.hold_out(bi.load_table("breast-cancer"), seed=0)
    train, test = split.train, split.test
    objective = bi.Objective(nn.Linear(30, 2, dtype=torch.float64), bi.CrossEntropy(), bi.WeightDecay(0.01))
    objective = bi.minimum_of(objective, train)
    margins = bi.Margin(objective.likelihood)(objective.outputs(objective.params, test.inputs), test.targets)
    wrong = test.select([int(margins.argmin())])

    # Which five rows stand in the way of the right answer, and is that so?
    group = bi.influential_group(objective, train, wrong, 5, direction="decrease", damping=0.0, refit=bi.Minimum())
    print(f"test row {int(wrong.ids[0])} is predicted wrongly, by a margin of {float(margins.min()):.2f}")
    print(
        f"without the rows {group.ids.tolist()} its loss changes by {group.true:.3f} (predicted {group.predicted:.3f})"
    )

    # Through which feature do the rows that matter most act?
    culprit = bi.culprit_feature(objective, train, wrong, count=5, damping=0.0)
    for column in culprit.order[:3].tolist():
        print(f"  {culprit.names[column]}: {culprit.strengths[column]:.4f} a row, if it were as in most rows")

    # How far must ten rows be moved for the closest right answer to turn?
    right = test.select([int(torch.where(margins > 0, margins, torch.inf).argmin())])
    lowest, highest = float(train.inputs.min()), float(train.inputs.max())
    turned = bi.attack(objective, train, right, count=10, step=0.1, lower=lowest, upper=highest, damping=0.0)
    how = "turns" if turned.flipped else "stands"
    print(
        f"test row {int(right.ids[0])} {how} once ten rows were moved by {turned.largest_move:.2f} standard deviations"
    )


if __name__ == "__main__":
    main()
