"""Influence against retraining, against dense float64 algebra, and against its own linearity."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature.damping import IdentityDamping
from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.synthetic import gaussian_classes
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.derivatives import dense_hessian, per_example_gradients
from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of

STEP = 1e-4


def test_targets_that_are_all_the_same_are_warned_of(linear, train, caplog):
    one_class = replace(train, targets=torch.ones_like(train.targets))
    Influence(linear, one_class, damping=0.1)
    assert "all 40 training targets are 1; nothing can be learned from them" in caplog.text


def test_influence_of_one_example_is_refused(linear, train):
    with pytest.raises(ValueError, match="of one training example nothing would be left; give at least two"):
        Influence(linear, train.select([0]), damping=0.1)


def flat(objective):
    return objective.layout.flatten(objective.params)


@pytest.fixture(params=["linear", "deep"])
def objective(request):
    return request.getfixturevalue(request.param)


def test_values_are_the_derivative_in_the_weight_of_an_example(objective, train, test, reweighted):
    influence = Influence(objective, train, damping=0.0)
    values = influence.on_loss(test).values
    for position in (0, 7, 23):
        nudge = torch.zeros(40, dtype=torch.float64)
        nudge[position] = 40 * STEP  # J + epsilon l_i is a weight of 1 + n epsilon
        up, down = (reweighted(objective, train, 1 + sign * nudge) for sign in (1, -1))
        losses = [refit.losses(refit.params, test.batch()) for refit in (up, down)]
        torch.testing.assert_close(values[:, position], (losses[0] - losses[1]) / (2 * STEP), rtol=1e-4, atol=1e-6)
        moved = -(flat(up) - flat(down)) / (2 * STEP) / 40
        (change,) = influence.on_parameters(int(train.ids[position]))
        torch.testing.assert_close(change, moved, rtol=1e-4, atol=1e-6)


def test_removal_predicts_leaving_an_example_out(linear, train, test, reweighted):
    removal = Influence(linear, train, damping=0.0).on_loss(test).removal
    before = linear.losses(linear.params, test.batch())
    truth = []
    for position in range(40):
        refit = reweighted(linear, train, (torch.arange(40) != position).double())
        truth.append(refit.losses(refit.params, test.batch()) - before)
    truth = torch.stack(truth, dim=1)
    assert torch.corrcoef(torch.stack([removal.flatten(), truth.flatten()]))[0, 1] > 0.99
    slope = (removal * truth).sum() / truth.square().sum()
    assert 0.7 < slope < 1.0  # each parameter rests on three examples: the linear response falls short of a removal
    large = truth.abs() > 0.2 * truth.abs().max()
    assert torch.equal(removal[large].sign(), truth[large].sign())


def test_leaving_out_in_least_squares_is_exact_once_leverage_is_counted(reweighted):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    targets = inputs @ torch.randn(4, 1, generator=generator, dtype=torch.float64) + 0.3
    data = Dataset(inputs, targets + torch.randn(30, 1, generator=generator, dtype=torch.float64), torch.arange(30))
    objective = Objective(nn.Linear(4, 1).double(), GaussianNoise(), WeightDecay(0.1))
    objective = reweighted(objective, data, torch.ones(30, dtype=torch.float64))
    influence = Influence(objective, data, damping=0.0)
    design = torch.cat([inputs, torch.ones(30, 1, dtype=torch.float64)], dim=1)
    inverse = torch.linalg.inv(design.T @ design / 30 + 0.1 * torch.eye(5, dtype=torch.float64))
    leverage = (design @ inverse * design).sum(dim=1) / 30
    refit = reweighted(objective, data, (torch.arange(30) != 11).double())
    exact = influence.on_parameters(11)[0] / (1 - leverage[11])
    torch.testing.assert_close(exact, flat(refit) - flat(objective), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("selection", ["all", "last-layer", ["0.weight", "2.bias"]])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_scores_equal_dense_algebra(deep, train, test, selection, damping):
    objective = replace(deep, parameters=selection)
    hessian = dense_hessian(objective, train.batch())
    inverse = torch.linalg.inv(hessian + damping * torch.eye(len(hessian), dtype=torch.float64))
    left, right = (per_example_gradients(objective, part.batch()) for part in (test, train))
    influence = Influence(deep, train, damping=damping, parameters=selection)
    scores = influence.on_loss(test)
    torch.testing.assert_close(scores.values, -left @ inverse @ right.T, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(scores.removal, left @ inverse @ right.T / 40, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(influence.on_parameters(), right @ inverse / 40, rtol=1e-8, atol=1e-10)
    own = (right @ inverse * right).sum(dim=1)
    torch.testing.assert_close(influence.self_influence(), own, rtol=1e-8, atol=1e-10)
    assert torch.equal(scores.train_ids, train.ids)
    assert torch.equal(scores.test_ids, test.ids)


def test_error_bounds_hold_and_grow_with_the_residual(linear, train, test):
    def careless(operator, rhs):
        exact = Influence(linear, train, damping=0.0).response.solve(rhs)
        wrong = exact.value + 1e-3 * torch.randn(exact.value.shape, dtype=torch.float64)
        residual = (rhs - operator @ wrong).norm(dim=0) / rhs.norm(dim=0)
        return replace(exact, value=wrong, residual=residual, converged=False)

    exact = Influence(linear, train, damping=0.0).on_loss(test)
    rough = Influence(linear, train, damping=0.0, solver=careless).on_loss(test)
    assert exact.error.max() < 1e-12
    assert not rough.converged
    errors = (rough.values - exact.values).abs()
    assert (errors <= rough.error).all()
    assert (rough.error < 100 * errors.median()).any()


def test_self_influence_finds_flipped_labels():
    data = gaussian_classes(60, n_features=3, n_classes=3, separation=3.0, seed=1).dataset
    wrong = torch.tensor([3, 17, 31])
    targets = data.targets.clone()
    targets[wrong] = (targets[wrong] + 1) % 3
    noisy = replace(data, targets=targets)
    objective = minimum_of(Objective(nn.Linear(3, 3), CrossEntropy(), WeightDecay(0.02)), noisy)
    own = Influence(objective, noisy, damping=0.0).self_influence()
    assert set(wrong.tolist()) <= set(own.argsort(descending=True)[:5].tolist())


def test_float32_objectives_are_handled_in_float64(linear, train, test):
    single = Objective(nn.Sequential(nn.Linear(3, 3)), CrossEntropy(), WeightDecay(0.02), parameters="last-layer").at(
        {name: value.float() for name, value in linear.params.items()}
    )
    scores = Influence(single, train.to(dtype=torch.float32), damping=0.0).on_loss(test.to(dtype=torch.float32))
    assert scores.values.dtype == torch.float64
    torch.testing.assert_close(
        scores.values, Influence(linear, train, damping=0.0).on_loss(test).values, rtol=1e-4, atol=1e-4
    )


def test_a_dtype_may_be_asked_for(linear, train, test):
    scores = Influence(linear, train, damping=0.0, dtype=torch.float32).on_loss(test)
    assert scores.values.dtype == torch.float32
    expected = Influence(linear, train, damping=0.0).on_loss(test).values.float()
    torch.testing.assert_close(scores.values, expected, rtol=1e-3, atol=1e-3)


def test_indefinite_curvature_is_named(deep, train):
    torch.manual_seed(5)
    elsewhere = deep.at({name: 2 * torch.randn_like(value) for name, value in deep.params.items()})
    smallest = float(torch.linalg.eigvalsh(dense_hessian(elsewhere, train.batch()))[0])
    assert smallest < 0
    with pytest.raises(IndefiniteCurvatureError, match="the curvature is indefinite, its smallest eigenvalue is -"):
        Influence(elsewhere, train, damping=0.0)
    damped = Influence(elsewhere, train)
    assert damped.damping.delta >= 1.1 * -smallest
    assert damped.on_parameters().isfinite().all()


def test_an_unregularised_softmax_layer_is_singular(linear, train):
    with pytest.raises(IndefiniteCurvatureError, match="singular to working precision"):
        Influence(replace(linear, regulariser_weight=0.0), train, damping=0.0)


def test_the_default_damping_is_the_rule_and_is_reported(linear, train, test):
    influence = Influence(linear, train)
    hessian = dense_hessian(linear, train.batch())
    assert isinstance(influence.damping, IdentityDamping)
    assert influence.damping.delta == pytest.approx(0.1 * float(hessian.trace()) / 12)
    assert influence.on_loss(test).damping == repr(influence.damping)


def log_cosh(outputs, targets):
    return torch.log(torch.cosh(outputs - targets)).sum(1)


class TwoInputs(nn.Module):
    """Takes {"left": (B, 3), "pair": ((B, 2), (B,))}."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, inputs):
        first, second = inputs["pair"]
        joined = torch.cat([first, second.unsqueeze(1)], dim=1)
        return torch.tanh(self.left(inputs["left"])) + self.right(joined)


def test_inputs_and_losses_of_any_structure():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {"left": draw(12, 3), "pair": (draw(12, 2), draw(12))}
    data = Dataset(inputs, draw(12, 2), torch.arange(12))
    objective = Objective(TwoInputs().double(), log_cosh, WeightDecay(1.0))
    influence = Influence(objective, data, damping=1.0, curvature="ggn")
    scores = influence.on_loss(data.select([0, 1]))
    gradients = per_example_gradients(objective, data.batch())
    expected = -(influence.response.solve(gradients[:2].T).value.T @ gradients.T)
    torch.testing.assert_close(scores.values, expected)
    moved = influence.of_perturbation([3, 4, 5], data.select([0, 1]))
    assert moved["left"].shape == (2, 3, 3)
    assert moved["pair"][1].shape == (2, 3)


def test_a_network_that_goes_on_after_its_last_layer_is_taken_whole(train, test):
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.LogSoftmax(dim=-1)).double()
    nll = nn.NLLLoss(reduction="none")
    objective = Objective(network, nll, WeightDecay(0.1), parameters="last-layer")
    plain = Objective(network[:3], CrossEntropy(), WeightDecay(0.1), parameters="last-layer")
    expected = Influence(plain, train, damping=0.1).on_loss(test).values
    torch.testing.assert_close(Influence(objective, train, damping=0.1).on_loss(test).values, expected)


def test_batches_do_not_change_scores(deep, train, test):
    whole = Influence(deep, train, damping=0.1).on_loss(test)
    pieces = Influence(deep, train, damping=0.1, batch_size=7).on_loss(test)
    torch.testing.assert_close(pieces.values, whole.values)
    torch.testing.assert_close(pieces.gradient_norms, whole.gradient_norms)


@pytest.mark.parametrize("act", ["on_parameters", "of_group"])
def test_unknown_ids_are_named(linear, train, act):
    with pytest.raises(ValueError, match=r"no example has id \[999\]"):
        getattr(Influence(linear, train), act)([999])


def test_a_loss_reduced_over_the_batch_is_refused(train):
    objective = Objective(nn.Linear(3, 3).double(), nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"one loss per example, .* use reduction='none'"):
        Influence(objective, train)


def test_losses_that_are_not_finite_are_refused(linear, train):
    broken = linear.at({name: value * torch.nan for name, value in linear.params.items()})
    with pytest.raises(ValueError, match="losses are not finite"):
        Influence(broken, train)


def test_gradients_that_are_not_finite_name_their_examples(train, test):
    def root(outputs, targets):
        return (outputs.sum(1) - outputs.sum(1).detach()).abs().sqrt() + outputs.square().sum(1)

    influence = Influence(Objective(nn.Linear(3, 3).double(), CrossEntropy(), WeightDecay(0.1)), train)
    with pytest.raises(ValueError, match=rf"the gradient is not finite for 5 of 5 .*\(ids \[{int(test.ids[0])}"):
        influence.on_measurement(root, test)


def test_training_gradients_that_are_not_finite_name_their_examples(train, test):
    """Of classes that no test example has."""

    def rooted(outputs, targets):
        root = (outputs[:, 0] - outputs[:, 0].detach() + (targets == 2).to(outputs)).abs().sqrt()
        return root + outputs.square().sum(dim=1)

    right = replace(test, targets=torch.full_like(test.targets, 2))
    identity = lambda objective, data: DenseOperator(torch.eye(12).double())  # noqa: E731 - finite, whatever the slopes
    influence = Influence(Objective(nn.Linear(3, 3).double(), rooted, WeightDecay(0.1)), train, curvature=identity)
    wrong = train.ids[train.targets != 2].tolist()
    with pytest.raises(ValueError, match=rf"the gradient is not finite for {len(wrong)} of 40 .*\(ids \[{wrong[0]}, "):
        influence.on_loss(right)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, inputs):
        return self.used(inputs)


def test_parameters_that_take_no_part_are_named(train):
    objective = Objective(Unused().double(), CrossEntropy(), WeightDecay(0.1))
    with pytest.raises(ValueError, match=r"\['spare.weight', 'spare.bias'\] do not take part .* parameters=\['used"):
        Influence(objective, train)
    used = Influence(objective, train, parameters=["used.weight", "used.bias"])
    assert used.problem.size == 12


def test_a_loss_cut_off_from_the_parameters_is_refused(train):
    objective = Objective(nn.Linear(3, 3).double(), lambda outputs, targets: outputs.detach().sum(1))
    with pytest.raises(ValueError, match=r"do not depend on (any|the selected) parameter"):
        Influence(objective, train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "fisher"}, "unknown curvature 'fisher'; known: hessian, ggn, empirical-fisher, ekfac"),
        ({"solver": "magic"}, "unknown solver 'magic'"),
        ({"damping": "some"}, "damping must be 'auto', a number or a Damping, got 'some'"),
        ({"damping": -1.0}, "delta must be finite and at least 0"),
        ({"parameters": "middle"}, "unknown parameters 'middle'"),
        ({"scoring": "guess"}, "unknown scoring 'guess'"),
        ({"batch_size": 0}, "batch size must be at least 1"),
    ],
)
def test_options_that_do_not_exist_are_named(linear, train, options, message):
    with pytest.raises(ValueError, match=message):
        Influence(linear, train, **options)


def test_a_dtype_without_derivatives_is_refused(linear, train):
    with pytest.raises(TypeError, match=r"real floating-point dtype, got torch\.int64"):
        Influence(linear, train, dtype=torch.int64)


def test_a_network_of_one_layer_is_its_own_last_layer(train, test):
    torch.manual_seed(1)
    layer = minimum_of(Objective(nn.Linear(3, 3).double(), CrossEntropy(), WeightDecay(0.02)), train)
    whole = Influence(layer, train, damping=0.1)
    last = Influence(layer, train, damping=0.1, parameters="last-layer")
    assert last.problem.is_linear_head
    torch.testing.assert_close(last.on_loss(test).values, whole.on_loss(test).values, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_measurement_or_no_objective_is_refused(linear, train, test):
    with pytest.raises(TypeError, match=r"the measurement must be a function, got .*pass an object such as Margin"):
        Influence(linear, train).on_measurement("margin", test)
    with pytest.raises(TypeError, match="what influence is taken of must be one Objective, got"):
        Influence(linear.network, train)
