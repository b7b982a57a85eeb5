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


def test_weights_that_average_one_over_the_batch_are_refused_in_smaller_ones():
    generator = torch.Generator().manual_seed(2)
    classes = torch.tensor([0] * 10 + [1] * 8 + [2] * 6)
    inputs = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    balanced = 24 / (3 * classes.bincount())
    data, network = bi.Dataset(inputs, classes, torch.arange(24)), nn.Linear(3, 3).double()
    criterion = nn.CrossEntropyLoss(weight=balanced.double())
    PerExample(criterion).check_mean(network(inputs).detach(), classes)  # over all of them it is the mean
    for parameters in ("all", "last-layer"):
        with pytest.raises(InseparableLossError, match=r"of 2 examples.* divided by their sum over the batch: pass"):
            bi.Influence.of(network, criterion, data, parameters=parameters, damping=0.1)
    advised = nn.CrossEntropyLoss(weight=balanced / balanced[classes].mean(), reduction="none")
    torch.testing.assert_close(
        PerExample(advised)(network(inputs), classes).mean(), criterion(network(inputs), classes)
    )


def test_test_examples_whose_mean_is_none_are_refused():
    data = bi.Dataset(LOGITS, CLASSES * 0 + 1, torch.arange(6))
    tests = bi.Dataset(LOGITS, CLASSES, torch.arange(6), "tests")
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([3.0, 1.0, 2.0]))
    influence = bi.Influence.of(nn.Linear(3, 3).double(), weighted, data, parameters="all", damping=1.0)
    with pytest.raises(InseparableLossError, match="no mean"):
        influence.on_loss(tests)


def test_a_criterion_is_taken_in_the_dtype_of_the_outputs():
    weighted = nn.CrossEntropyLoss(weight=WEIGHTS.float(), reduction="none")
    expected = F.cross_entropy(LOGITS, CLASSES, weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(PerExample(weighted)(LOGITS, CLASSES), expected, rtol=1e-12, atol=0)
    assert weighted.weight.dtype == torch.float32
    mean = PerExample(nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0, 1.0, 2.0])))
    mean.check_mean(LOGITS, LABELS)


@dataclass
class _Pair:
    mean: torch.Tensor
    parts: dict
    called: str = "a pair"


class _Opaque(dict):
    """A mapping that torch does not take apart."""


def test_a_mean_over_a_record_that_nobody_can_take_apart_is_refused():
    loss = PerExample(lambda outputs, targets: nn.functional.cross_entropy(outputs["logits"], targets))
    with pytest.raises(InseparableLossError, match=r"of the outputs, a .*_Opaque, no part is known that has"):
        loss(_Opaque(logits=LOGITS), CLASSES)


def test_a_mean_over_a_record_of_the_users_own_is_taken_apart():
    pair = _Pair(LOGITS, {"scale": REALS.square() + 1, "factor": torch.tensor(2.0).double()})
    criterion = PerExample(lambda o, y: ((o.mean - y).square() / o.parts["scale"]).sum(1).mean() * o.parts["factor"])
    expected = 2 * ((LOGITS - REALS).square() / (REALS.square() + 1)).sum(1)
    torch.testing.assert_close(criterion(pair, REALS), expected)
    assert pair.mean is LOGITS


@pytest.mark.parametrize("full", [False, True])
def test_a_mean_that_torch_cannot_batch_is_taken_apart_all_the_same(full):
    variances = REALS.abs() - 0.2
    variances[0] = 1e-9  # bounded from below, with a gradient as if it were not
    variances = variances.clamp(min=1e-9)

    def losses(reduction):
        return lambda o, y: F.gaussian_nll_loss(o[0], y, o[1], full=full, reduction=reduction)

    found, expected = (torch.stack([LOGITS, variances]).requires_grad_() for _ in range(2))
    mine = PerExample(losses("mean"))((found[0], found[1]), REALS)
    theirs = losses("none")((expected[0], expected[1]), REALS).mean(1)
    torch.testing.assert_close(mine, theirs)
    slopes = [torch.autograd.grad(value.sum(), at)[0] for value, at in ((mine, found), (theirs, expected))]
    torch.testing.assert_close(*slopes)

    def looks(outputs, targets):
        return ((outputs - targets).square() if outputs.sum() > 0 else (outputs - targets).abs()).mean()

    alone = [looks(o[None], y[None]) for o, y in zip(LOGITS, REALS, strict=True)]
    torch.testing.assert_close(PerExample(looks)(LOGITS, REALS), torch.stack(alone))


def test_classes_without_an_output_are_refused_by_name():
    network, train = nn.Linear(3, 3).double(), bi.Dataset(LOGITS, CLASSES, torch.arange(6))
    influence = bi.Influence.of(network, nn.CrossEntropyLoss(), train, damping=1.0)
    beyond = bi.Dataset(LOGITS[:2], torch.tensor([0, 3]), torch.tensor([7, 8]), "tests")
    with pytest.raises(ValueError, match=r"tests: CrossEntropyLoss needs classes in 0\.\.2, .*got 3 .*id 8\)"):
        influence.on_loss(beyond)
    ignoring = PerExample(nn.CrossEntropyLoss(ignore_index=5, reduction="none"))
    ignoring.check_targets(LOGITS, torch.tensor([0, 1, 2, 5, 5, 0]), "tests", torch.arange(6))


def test_whole_numbers_are_classes_for_torchs_criteria_of_classes_alone():
    counts = torch.tensor([7, 0, 12, 3, 9, 1])
    first = PerExample(lambda outputs, targets: (outputs[:, 0] - targets).square())
    first.check_targets(LOGITS, counts, "tests", torch.arange(6))
    PerExample(nn.CrossEntropyLoss()).check_targets([LOGITS], counts, "tests", torch.arange(6))
    PerExample(nn.CrossEntropyLoss()).check_targets(LOGITS[0], torch.tensor(2), "tests", torch.arange(1))


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
def test_test_examples_of_another_kind_are_refused_in_words(parameters):
    network, train = nn.Linear(3, 3).double(), bi.Dataset(LOGITS, CLASSES, torch.arange(6))
    influence = bi.Influence.of(network, nn.CrossEntropyLoss(), train, parameters=parameters, damping=1.0)
    real = bi.Dataset(LOGITS, CLASSES.double(), torch.arange(6), "tests")
    with pytest.raises(ValueError, match=r"tests: the losses fail on float64 of shape \(6,\)"):
        influence.on_loss(real)
    wide = bi.Dataset(torch.cat([LOGITS, LOGITS], 1), CLASSES, torch.arange(6), "tests")
    with pytest.raises(ValueError, match=r"tests: the network fails on float64 of shape \(2, 6\) .*trained on"):
        influence.on_loss(wide)


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


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.head, self.wrap = nn.Linear(3, 2), wrap

    def forward(self, x):
        return self.wrap(self.head(x))


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
@pytest.mark.parametrize(
    ("wrap", "said", "part"),
    [
        (lambda out: (out, out.softmax(1)), r"tuple of 2; .* loss\(outputs\[0\], y\)", 0),
        (lambda out: {"logits": out}, r"dict with logits; .* loss\(outputs\['logits'\], y\)", "logits"),
        (lambda out: bi.Moments(out, torch.ones_like(out)), "Moments of a Bayesian one; take an expected l", None),
        (lambda out: str(out.sum()), "str; have it return a tensor", None),
    ],
    ids=["tuple", "dict", "moments", "word"],
)
def test_outputs_that_are_no_tensor_are_refused_in_words(wrap, said, part, parameters, as_installed):
    data = bi.Dataset(torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]), torch.arange(6))
    loss = nn.CrossEntropyLoss()
    network, also = Wrapped(wrap), {"weight_decay": 0.1, "damping": 1.0, "parameters": parameters}
    with pytest.raises(TypeError, match=f"CrossEntropyLoss takes one tensor, and the network returns {said}"):
        bi.Influence.of(network, loss, data, **also)
    if "Moments" not in said:  # for which single functions of torch have their own words
        with pytest.raises(TypeError, match=rf"fails \(.*must be Tensor.*\) on all that the network returns, {said}"):
            bi.Influence.of(network, lambda outputs, y: loss(outputs, y), data, **also)
    if part is not None:
        found = bi.Influence.of(network, lambda outputs, y: loss(outputs[part], y), data, **also).on_loss(data)
        expected = bi.Influence.of(network.head, loss, data, **also).on_loss(data)
        torch.testing.assert_close(found.values, expected.values)
