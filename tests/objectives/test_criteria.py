"""Losses as training loops call them, taken apart into examples."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import bayes_influence as bi
from bayes_influence.objectives.criteria import InseparableLossError, PerExample, as_losses, read_outputs

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2])
REALS = torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64)
LABELS = (REALS > 0).double()
WEIGHTS = torch.tensor([1.0, 2.0, 5.0]).double()

MEANS = [
    (nn.CrossEntropyLoss(), CLASSES, F.cross_entropy(LOGITS, CLASSES, reduction="none")),
    (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        CLASSES,
        F.cross_entropy(LOGITS, CLASSES, reduction="none", label_smoothing=0.1),
    ),
    (F.cross_entropy, CLASSES, F.cross_entropy(LOGITS, CLASSES, reduction="none")),
    (nn.MultiMarginLoss(), CLASSES, F.multi_margin_loss(LOGITS, CLASSES, reduction="none")),
    (nn.MSELoss(), REALS, (LOGITS - REALS).square().mean(1)),
    (nn.L1Loss(), REALS, (LOGITS - REALS).abs().mean(1)),
    (nn.HuberLoss(), REALS, F.huber_loss(LOGITS, REALS, reduction="none").mean(1)),
    (nn.BCEWithLogitsLoss(), LABELS, F.binary_cross_entropy_with_logits(LOGITS, LABELS, reduction="none").mean(1)),
    (nn.CrossEntropyLoss(reduction="none"), CLASSES, F.cross_entropy(LOGITS, CLASSES, reduction="none")),
    (lambda outputs, targets: (outputs - targets).square().sum(1), REALS, (LOGITS - REALS).square().sum(1)),
    (lambda outputs, targets: (outputs - targets).square().sum(1).mean(), REALS, (LOGITS - REALS).square().sum(1)),
]


@pytest.mark.parametrize(("criterion", "targets", "expected"), MEANS)
def test_a_mean_is_taken_apart_into_the_losses_of_its_examples(criterion, targets, expected):
    losses = PerExample(criterion)
    torch.testing.assert_close(losses(LOGITS, targets), expected)
    losses.check_mean(LOGITS, targets)


@pytest.mark.parametrize(
    ("criterion", "targets", "message"),
    [
        (
            nn.CrossEntropyLoss(weight=WEIGHTS),
            CLASSES,
            "CrossEntropyLoss returns .* no mean",
        ),
        (lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="sum"), CLASSES, "it is the sum over"),
        (lambda outputs, targets: F.cross_entropy(outputs - outputs.mean(0), targets), CLASSES, "it is no mean"),
        (nn.CrossEntropyLoss(ignore_index=1), CLASSES, r"returns .* it is no mean"),
    ],
)
def test_what_is_no_mean_over_examples_is_refused(criterion, targets, message):
    with pytest.raises(InseparableLossError, match=message):
        PerExample(criterion).check_mean(LOGITS, targets)


def test_a_sum_is_refused_at_once(as_installed):
    with pytest.raises(InseparableLossError, match=r"MSELoss sums over the batch.* reduction='mean'"):
        PerExample(nn.MSELoss(reduction="sum"))
    with pytest.raises(TypeError, match="must be a module or a function of outputs and targets, got 'mse'"):
        PerExample("mse")


@dataclass
class _Output:
    logits: torch.Tensor


class _Recording(nn.Linear):
    def forward(self, x):
        return _Output(super().forward(x))


def test_torchs_own_criteria_are_given_the_logits_of_an_output_and_others_the_output():
    output = _Output(LOGITS)
    assert read_outputs(PerExample(nn.CrossEntropyLoss()), output) is LOGITS
    assert read_outputs(bi.CrossEntropy(), output) is LOGITS
    assert read_outputs(bi.CrossEntropy(), LOGITS) is LOGITS
    own = PerExample(lambda output, targets: F.cross_entropy(output.logits, targets, reduction="none"))
    assert read_outputs(own, output) is output
    torch.testing.assert_close(own(output, CLASSES), MEANS[0][2])
    network, data = _Recording(3, 3).double(), bi.Dataset(LOGITS, CLASSES, torch.arange(6))
    expected = F.cross_entropy(network(LOGITS).logits, CLASSES, reduction="none")
    for likelihood in (PerExample(nn.CrossEntropyLoss()), bi.CrossEntropy(), own):
        objective = bi.Objective(network, likelihood)
        torch.testing.assert_close(objective.losses(objective.params, data.batch()), expected)


def test_a_batch_that_is_no_mean_is_refused_before_influence_is_taken():
    data = bi.Dataset(LOGITS, CLASSES, torch.arange(6))
    weighted = nn.CrossEntropyLoss(weight=WEIGHTS)
    objective = bi.Objective(nn.Linear(3, 3).double(), PerExample(weighted))
    for parameters in ("last-layer", "all"):
        with pytest.raises(InseparableLossError, match="no mean"):
            bi.Influence(objective, data, damping=0.1, parameters=parameters)


def test_derivatives_are_those_of_the_library_s_own_loss():
    data = bi.Dataset(LOGITS, CLASSES, torch.arange(6))
    network = nn.Linear(3, 3).double()
    scores = [
        bi.Influence(bi.Objective(network, loss), data, damping=0.1).on_loss(data.select([2])).values
        for loss in (PerExample(nn.CrossEntropyLoss()), bi.CrossEntropy())
    ]
    torch.testing.assert_close(*scores, rtol=1e-10, atol=1e-12)


def test_likelihoods_of_the_library_are_not_taken_apart():
    likelihood = bi.NextToken()
    assert as_losses(likelihood) is likelihood
    assert isinstance(as_losses(nn.CrossEntropyLoss()), PerExample)


def test_one_loss_in_a_column_is_one_loss_and_several_for_an_example_are_refused():
    column = LOGITS[:, :1]
    losses = PerExample(nn.MSELoss(reduction="none"))(column, REALS[:, :1])
    torch.testing.assert_close(losses, (column - REALS[:, :1]).square()[:, 0])
    with pytest.raises(InseparableLossError, match=r"MSELoss returns losses of shape \(6, 3\), several for every"):
        PerExample(nn.MSELoss(reduction="none"))(LOGITS, REALS)


def test_a_mean_may_be_missed_by_the_root_of_rounding():
    """Ten times 1.5e-8 in double precision; what is not finite is for others to say."""

    def off_by(share):
        return PerExample(lambda outputs, targets: F.cross_entropy(outputs, targets) * (1 + share * (len(targets) > 1)))

    off_by(1.4e-7).check_mean(LOGITS, CLASSES)
    with pytest.raises(InseparableLossError, match="it is no mean"):
        off_by(1.8e-7).check_mean(LOGITS, CLASSES)
    PerExample(nn.CrossEntropyLoss()).check_mean(LOGITS * torch.nan, CLASSES)


@pytest.mark.parametrize(("share", "said"), [(0.0009, "it is the sum"), (0.0011, "it is no mean")])
def test_what_is_a_sum_but_for_a_thousandth_is_called_one(share, said):
    criterion = PerExample(lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="sum") * scale(targets))

    def scale(targets):
        return 1 + share * (len(targets) > 1)

    with pytest.raises(InseparableLossError, match=said):
        criterion.check_mean(LOGITS, CLASSES)


class _Root(nn.Module):
    """A criterion of one's own that happens to have an attribute of torch's name."""

    reduction = "mean"

    def forward(self, outputs, targets):
        losses = (outputs - targets).square()
        return losses.mean() if self.reduction == "mean" else losses.sqrt()


def test_only_torchs_own_criteria_are_asked_for_single_losses():
    torch.testing.assert_close(PerExample(_Root())(LOGITS, REALS), (LOGITS - REALS).square().mean(1))
