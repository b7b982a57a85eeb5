"""Group influence against exact refits: convergence orders, signs, conventions, and accuracy over group sizes."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayes_influence.curvature.errors import IndefiniteCurvatureError, IndefiniteCurvatureWarning
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.influence.directional import third_derivative
from bayes_influence.influence.groups import reweighting_response
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.objectives.reweighting import removal_weights
from bayes_influence.training.minimum import minimum_of

ORDERS = [1, 2, "newton", "newton-chebyshev"]


def flat(objective):
    return objective.layout.flatten(objective.params)


def true_change(reweighted, objective, train, positions, convention):
    change = removal_weights(positions, convention, torch.ones(len(train), dtype=torch.float64))
    refit = reweighted(objective, train, 1 + change)
    return refit, flat(refit) - flat(objective)


def test_weights_of_both_conventions():
    positions = torch.tensor([0, 3])
    assert removal_weights(positions, "fixed", torch.ones(5, dtype=torch.float64)).tolist() == [-1, 0, 0, -1, 0]
    renormalised = removal_weights(positions, "renormalised", torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(1 + renormalised, torch.tensor([0, 5, 5, 0, 5], dtype=torch.float64) / 3)
    assert renormalised.sum() == pytest.approx(0.0)


@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
@pytest.mark.parametrize("name", ["linear", "deep"])
def test_errors_shrink_in_the_order_that_theory_says(request, train, reweighted, convention, name):
    """Where a group's weights fall by epsilon only, the errors fall as epsilon^2 and epsilon^3."""
    objective = request.getfixturevalue(name)
    influence = Influence(objective, train, damping=0.0)
    theta, steps = influence.problem.theta, (0.08, 0.04)
    change = removal_weights(torch.arange(6), convention, torch.ones(40, dtype=torch.float64))
    truths = [flat(reweighted(objective, train, 1 + epsilon * change)) - theta for epsilon in steps]
    errors = {
        order: [
            float((reweighting_response(influence.response, epsilon * change, order) - truth).norm())
            for epsilon, truth in zip(steps, truths, strict=True)
        ]
        for order in (1, 2)
    }
    assert errors[1][0] / errors[1][1] == pytest.approx(4.0, rel=0.15)
    assert errors[2][0] / errors[2][1] == pytest.approx(8.0, rel=0.15)


@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
def test_higher_orders_come_closer_to_the_refit(linear, train, reweighted, convention):
    positions = torch.arange(8)
    influence = Influence(linear, train, damping=0.0)
    _, truth = true_change(reweighted, linear, train, positions, convention)
    errors = {
        order: float(
            (influence.of_group(train.ids[positions], order=order, convention=convention).change - truth).norm()
        )
        for order in ORDERS
    }
    assert errors[2] < errors[1]
    assert errors["newton"] < errors[1]
    assert errors["newton-chebyshev"] < 0.5 * min(errors[1], errors["newton"])


@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
def test_the_bend_tells_how_far_an_expansion_reaches(linear, train, reweighted, convention):
    """Its definition, and that the relative error in the same norm is of the order of its square."""
    influence = Influence(linear, train, damping=0.0)
    for positions in (torch.arange(2), torch.arange(8), torch.arange(24)):
        found = influence.of_group(train.ids[positions], convention=convention)
        newton = influence.of_group(train.ids[positions], order="newton", convention=convention)
        assert newton.bend is None
        weights = 1 + removal_weights(positions, convention, torch.ones(40, dtype=torch.float64))
        hessian = dense_hessian(linear, train.batch(), weights)

        def length(step, hessian=hessian):
            return float((step @ hessian @ step).sqrt())

        assert found.bend == pytest.approx(length(found.change - newton.change) / length(newton.change), rel=1e-6)
        _, truth = true_change(reweighted, linear, train, positions, convention)
        assert 0.1 < length(found.change - truth) / length(truth) / found.bend**2 < 4


def test_a_group_beyond_the_reach_of_an_expansion_is_warned_of(linear, train, monkeypatch, caplog):
    influence = Influence(linear, train, damping=0.0)
    bend = influence.of_group(train.ids[:2]).bend
    assert not caplog.records
    monkeypatch.setattr("bayes_influence.influence.groups.LARGEST_BEND", bend / 2)
    influence.of_group(train.ids[:2])
    assert "does not reach as far as removing 2 example(s)" in caplog.text
    caplog.clear()
    influence.of_group(train.ids[:2], order="newton")
    assert not caplog.records


def test_tests_may_come_from_a_loader(linear, train):
    influence = Influence(linear, train, damping=0.0)
    chosen = train.select(range(5))
    loader = DataLoader(TensorDataset(chosen.inputs, chosen.targets), batch_size=2)
    group = influence.of_group(train.ids[:2])
    assert torch.equal(group.on_loss(loader), group.on_loss(chosen))
    assert influence.select_group(loader, 3).ids.tolist() == influence.select_group(chosen, 3).ids.tolist()
    assert torch.equal(influence.of_perturbation([3], loader), influence.of_perturbation([3], chosen))


def test_one_example_is_a_group_of_one(linear, train):
    influence = Influence(linear, train, damping=0.0)
    (alone,) = influence.on_parameters([int(train.ids[5])])
    torch.testing.assert_close(influence.of_group([int(train.ids[5])], order=1).change, alone)


def test_newton_step_solves_the_remaining_problem(deep, train):
    """The step is -A_w^-1 grad J_w with the regulariser and the damping at full weight, in both conventions."""
    influence = Influence(deep, train, damping=0.05)
    for convention in ("fixed", "renormalised"):
        weights = 1 + removal_weights(torch.tensor([1, 2]), convention, torch.ones(40, dtype=torch.float64))
        hessian = dense_hessian(deep, train.batch(), weights) + 0.05 * torch.eye(31, dtype=torch.float64)
        step = influence.of_group(train.ids[[1, 2]], order="newton", convention=convention).change
        from bayes_influence.objectives.derivatives import gradient

        slope = gradient(deep, train.batch(), weights) - gradient(deep, train.batch())
        torch.testing.assert_close(step, -torch.linalg.solve(hessian, slope), rtol=1e-8, atol=1e-10)


def test_third_derivative_is_that_of_the_gradient(deep, train):
    problem = FittedProblem(deep, train)
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, problem.size, generator=generator, dtype=torch.float64)
    weights = torch.rand(40, generator=generator, dtype=torch.float64)

    def hessian_at(step):
        moved = deep.at({**deep.params, **deep.layout.unflatten(problem.theta + step * first)})
        return dense_hessian(moved, train.batch(), weights)

    difference = (hessian_at(1e-4) - hessian_at(-1e-4)) @ second / 2e-4
    torch.testing.assert_close(third_derivative(problem, weights, first, second), difference, rtol=1e-5, atol=1e-6)


def test_without_the_third_derivative_second_order_is_wrong(linear, train, reweighted):
    """Basu, You & Feizi's eq. 15 leaves T out; it is not small for cross-entropy."""
    influence = Influence(linear, train, damping=0.0)
    problem = influence.problem
    change = removal_weights(torch.arange(8), "fixed", torch.ones(40, dtype=torch.float64))
    first = influence.of_group(train.ids[:8], order=1).change
    whole = influence.of_group(train.ids[:8], order=2).change - first
    bend = -0.5 * influence.response.solve(third_derivative(problem, torch.ones_like(change), first, first)).value
    assert (bend.norm() / whole.norm()) > 0.3


def test_loss_changes_of_every_order(linear, train, test, reweighted):
    positions = torch.arange(6)
    group = Influence(linear, train, damping=0.0).of_group(train.ids[positions])
    refit, _ = true_change(reweighted, linear, train, positions, "fixed")
    truth = refit.losses(refit.params, test.batch()) - linear.losses(linear.params, test.batch())
    exact, first, second = (group.on_loss(test, loss_order=order) for order in ("exact", 1, 2))
    torch.testing.assert_close(
        exact, linear.losses(group.params, test.batch()) - linear.losses(linear.params, test.batch())
    )
    assert (exact - truth).norm() < (first - truth).norm()
    assert (second - exact).norm() < (first - exact).norm()
    large = truth.abs() > 0.3 * truth.abs().max()
    assert torch.equal(exact[large].sign(), truth[large].sign())


def test_gauss_newton_groups_take_a_newton_step(deep, train):
    influence = Influence(deep, train, damping=0.1, curvature="ggn")
    assert influence.of_group(train.ids[:3], order="newton").change.norm() > 0
    with pytest.raises(ValueError, match=r"order='newton-chebyshev' .* needs curvature='hessian', got 'ggn'"):
        influence.of_group(train.ids[:3], order="newton-chebyshev")
    automatic = influence.of_group(train.ids[:3])
    assert automatic.order == "newton"
    assert torch.equal(automatic.change, influence.of_group(train.ids[:3], order="newton").change)


def test_an_example_that_alone_holds_up_the_curvature():
    """A direction that only the removed example's loss curves upwards: the rest's is 3 w^2 - 1, negative at w = 0."""
    data = Dataset(torch.ones(2, 1).double(), torch.tensor([0, 1]), torch.arange(2))
    network = nn.Linear(1, 1, bias=False).double()

    def loss(outputs, targets):
        w = outputs[:, 0]
        return torch.where(targets == 0, 2 * (w - 0.1).square(), w**4 / 4 - w.square() / 2 + 0.1 * w)

    with torch.no_grad():
        network.weight.zero_()
    influence = Influence(Objective(network, loss, WeightDecay(0.1)), data, damping=0.1)
    assert influence.on_parameters([0]).isfinite().all()
    with pytest.raises(IndefiniteCurvatureError, match="is indefinite"):
        influence.of_group([0], order="newton-chebyshev")
    with pytest.warns(IndefiniteCurvatureWarning, match=r"without the 1 removed examples .* expansion of order 2"):
        group = influence.of_group([0])
    assert (group.order, group.bend) == (2, float("inf"))
    torch.testing.assert_close(group.change, influence.of_group([0], order=2).change)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {}, "a group needs at least one example, got none"),
        (list(range(40)), {}, "a removal of 40 of 40 training examples leaves none"),
        ([0, 0], {}, "an id occurs twice"),
        ([0], {"order": 3}, "order must be one of auto, 1, 2, newton, newton-chebyshev, got 3"),
        ([0], {"convention": "free"}, "convention must be one of fixed, renormalised, got 'free'"),
    ],
)
def test_groups_that_cannot_be_removed_are_refused(linear, train, ids, options, message):
    with pytest.raises(ValueError, match=message):
        Influence(linear, train).of_group(train.ids[ids], **options)


def test_an_unknown_order_of_the_loss_is_refused(linear, train, test):
    with pytest.raises(ValueError, match="must be 1, 2 or 'exact', got 3"):
        Influence(linear, train).of_group(train.ids[:2]).on_loss(test, loss_order=3)


FRACTIONS = (0.05, 0.2, 0.4, 0.6)


@pytest.mark.slow
@pytest.mark.parametrize(("table", "decay"), [("breast-cancer", 0.03), ("digits", 0.01)])
@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
@pytest.mark.parametrize("kind", ["random", "same-class"])
def test_groups_of_a_logistic_regression(table, decay, convention, kind):
    """5-60 % removed: second order and Newton-Chebyshev beat first order; Newton-Chebyshev has slope 1."""
    measured, truth = removal_study(table, decay, convention, kind)
    pearson = {
        order: float(torch.corrcoef(torch.stack([estimate, truth]))[0, 1]) for order, estimate in measured.items()
    }
    assert pearson[2] > pearson[1]
    assert pearson["newton-chebyshev"] > pearson[1]
    slope = float(measured["newton-chebyshev"] @ truth / (truth @ truth))
    assert slope == pytest.approx(1.0, abs=0.1)


def removal_study(table, decay, convention, kind, groups=2, n_train=500, n_test=20):
    """Estimated changes of test losses for every order, and true ones, pooled over groups of 5-60 %."""
    split = hold_out(load_table(table), seed=0)
    train, test = split.train.select(range(min(n_train, len(split.train)))), split.test.select(range(n_test))
    network = nn.Linear(train.inputs.shape[1], train.n_classes)
    objective = minimum_of(Objective(network, CrossEntropy(), WeightDecay(decay)), train)
    influence = Influence(objective, train, damping=0.0)
    generator = torch.Generator().manual_seed(0)
    before = objective.losses(objective.params, test.batch())
    estimates, truths = {order: [] for order in ORDERS}, []
    for fraction, index in product(FRACTIONS, range(groups)):
        ids = pick(train, fraction, kind, index, generator)
        rest = train.without(ids)
        share = len(rest) / len(train) if convention == "fixed" else 1.0
        refit = minimum_of(replace(objective, regulariser_weight=1 / share), rest)
        truths.append(refit.losses(refit.params, test.batch()) - before)
        for order in ORDERS:
            group = influence.of_group(ids, order=order, convention=convention)
            estimates[order].append(group.on_loss(test))
    return {order: torch.cat(pieces) for order, pieces in estimates.items()}, torch.cat(truths)


def pick(train, fraction, kind, index, generator):
    """Ids of a random share of the training set, or of one class."""
    members = torch.arange(len(train))
    if kind == "same-class":
        members = (train.targets == index % train.n_classes).nonzero()[:, 0]
    order = torch.randperm(len(members), generator=generator)
    return train.ids[members[order[: round(fraction * len(members))]]]


@pytest.mark.parametrize("ids", [torch.arange(40) < 3, [True, False], torch.tensor([1.7]), [0.0]])
def test_masks_and_real_numbers_name_no_group(linear, train, ids, as_installed):
    with pytest.raises(TypeError, match=r"ids must be whole numbers, got (booleans|float)"):
        Influence(linear, train).of_group(ids)


def test_what_is_printed_has_order_bend_and_ids(linear, train, monkeypatch):
    influence = Influence(linear, train, damping=0.0)
    group = influence.of_group(train.ids[:2])
    moved = f"the parameters move by {float(group.change.norm()):.3g}"
    ids = ", ".join(map(str, train.ids[:2].tolist()))
    start = "GroupInfluence(2 training examples removed, order newton-chebyshev, fixed"
    assert repr(group) == f"{start}: {moved}, bend {group.bend:.2g}; ids {ids})"
    monkeypatch.setattr("bayes_influence.influence.groups.LARGEST_BEND", group.bend / 2)
    assert f"bend {group.bend:.2g}, above {group.bend / 2}: take a refit" in repr(group)
    first = repr(influence.of_group(train.ids[:12], order=1))
    assert "bend" not in first
    assert first.endswith(f"{', '.join(map(str, train.ids[:10].tolist()))}, and 2 more)")
