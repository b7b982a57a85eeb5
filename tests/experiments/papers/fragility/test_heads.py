"""The last layer of an image network under any choices, on a small network of digits."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators.hessian import Hessian
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED
from bayes_influence.experiments.papers.fragility.heads import (
    estimated_effects,
    features_with_dropout,
    head_of,
    largest_effects,
    refitted,
    relative_drift,
    true_effects,
)
from bayes_influence.experiments.papers.fragility.published_code import lissa_summed
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.derivatives import dense_hessian, gradient, per_example_gradients
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.objectives.reweighting import example_losses


@pytest.fixture(scope="module")
def split():
    found = hold_out(load_table("digits", torch.float32), 0.1)
    return Split(found.train.select(range(150)), found.test.select(range(30)))


@pytest.fixture(scope="module")
def objective():
    return Objective(MLP(64, 10, 6, activation="relu", seed=0), CrossEntropy(), WeightDecay(1e-2))


@pytest.fixture(scope="module")
def right(objective, split):
    return head_of(objective, split, CORRECTED)


@pytest.fixture(scope="module")
def published(objective, split):
    return head_of(objective, split, AS_PUBLISHED)


def test_a_head_stands_at_its_minimum_in_double_precision_or_where_it_was_trained(right, published, objective):
    assert right.objective.dtype == torch.float64
    assert gradient(right.objective, right.train.batch()).norm() < 1e-9
    assert torch.equal(published.objective.params["2.weight"], objective.params["2.weight"])
    assert published.objective.dtype == torch.float32


def test_a_head_is_taken_from_where_its_network_was_trained_to_the_cpu(split, monkeypatch):
    """Layer, features, and those with dropout: what follows makes arrays of them."""
    moved = []
    for kind in (Objective, Dataset):

        def recorded(own, *args, to=kind.to, **options):
            moved.append((type(own), options.get("device")))
            return to(own, *args, **options)

        monkeypatch.setattr(kind, "to", recorded)
    head_of(Objective(MLP(64, 10, 6, seed=0), CrossEntropy()), split, AS_PUBLISHED)
    assert [(Objective, "cpu"), (Dataset, "cpu"), (Dataset, "cpu")] == [one for one in moved if one[1] is not None]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_a_network_on_an_accelerator_has_the_head_that_it_has_on_the_cpu(objective, split, published):
    there = Split(split.train.to("cuda"), split.test.to("cuda"))
    found = head_of(objective.to(device="cuda"), there, AS_PUBLISHED)
    assert found.objective.device == torch.device("cpu")
    assert torch.allclose(found.train.inputs, published.train.inputs, rtol=1e-4, atol=1e-5)
    test = found.test_example("max")
    removed = largest_effects(estimated_effects(found, test, CORRECTED, summed=True, seed=0), found.train, 4)
    assert len(true_effects(found, refitted(found, removed, AS_PUBLISHED, 2), test, AS_PUBLISHED).numpy()) == 4


def test_test_examples_are_those_of_largest_and_of_median_loss(right):
    losses = example_losses(right.objective, right.tests)
    worst, median = (example_losses(right.objective, right.test_example(which))[0] for which in ("max", "median"))
    ordered = losses.sort().values
    assert [float(worst), float(median)] == pytest.approx([float(ordered[-1]), float(ordered[15])], rel=1e-9)
    with pytest.raises(ValueError, match="a test example is one of max, median, got 'mean'"):
        right.test_example("mean")


def test_corrected_estimates_are_what_refits_do(right):
    test = right.test_example("max")
    estimated = estimated_effects(right, test, CORRECTED, summed=True, seed=0)
    removed = largest_effects(estimated, right.train, 12)
    sizes = estimated.abs()[right.train.positions(removed)]
    assert sizes[0] == estimated.abs().max()
    assert (sizes.diff() <= 0).all()
    refits = refitted(right, removed, CORRECTED, epochs=1)
    effects = true_effects(right, refits, test, CORRECTED)
    assert refits.converged.all()
    assert torch.corrcoef(torch.stack([estimated[right.train.positions(removed)], effects]))[0, 1] > 0.9
    assert relative_drift(right, refits, test) < 1e-6


def test_published_small_networks_sum_lissa_with_the_sign_of_a_return(published):
    test = published.test_example("max")
    found = estimated_effects(published, test, AS_PUBLISHED, summed=True, seed=0)
    layer = replace(published.objective, regulariser_weight=0.0).taking(("2.weight",))
    # The very matrix: where the sum ends in float32 hangs on its last digits.
    hessian = Hessian().operator(layer, published.train).dense()
    torch.testing.assert_close(hessian, dense_hessian(layer, published.train.batch()), rtol=1e-3, atol=1e-5)
    solved, _ = lissa_summed(hessian, per_example_gradients(layer, test.batch())[0])
    expected = -per_example_gradients(layer, published.train.batch()) @ solved / len(published.train)
    assert torch.allclose(found, expected.double(), rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    signed = estimated_effects(published, test, AS_PUBLISHED.correcting("removal_sign"), summed=True, seed=0)
    assert torch.equal(signed, -found)


def test_published_large_networks_have_scores_at_the_places_of_a_shuffled_pass(published):
    test = published.test_example("max")
    shuffled = estimated_effects(published, test, AS_PUBLISHED, summed=False, seed=4)
    by_id = estimated_effects(published, test, AS_PUBLISHED.correcting("by_id"), summed=False, seed=4)
    assert not torch.equal(shuffled, by_id)
    assert torch.allclose(shuffled.sort().values, by_id.sort().values)


def test_lissa_ended_early_solves_the_damped_system(published):
    test = published.test_example("max")
    found = estimated_effects(published, test, AS_PUBLISHED.correcting("by_id"), summed=False, seed=0)
    layer = replace(published.objective, regulariser_weight=0.0).taking(("2.weight",))
    hessian = dense_hessian(layer, published.train.batch()).double()
    rhs = per_example_gradients(layer, test.batch())[0].double()
    solved = torch.linalg.solve(hessian + 0.1 * torch.eye(len(hessian), dtype=torch.float64), rhs)
    expected = per_example_gradients(layer, published.train.batch()).double() @ solved / len(published.train)
    assert torch.allclose(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_a_rate_of_one_over_a_hundred_million_moves_nothing(published):
    test = published.test_example("max")
    removed = published.train.ids[:4]
    still = refitted(published, removed, AS_PUBLISHED, epochs=20, slow=True)
    moving = refitted(published, removed, AS_PUBLISHED, epochs=20, slow=False)
    start = published.objective.params["2.weight"]
    assert (still.params["2.weight"] - start).abs().max() < 1e-6
    assert (moving.params["2.weight"] - start).abs().max() > 1e-2
    against_fit = true_effects(published, moving, test, AS_PUBLISHED)
    against_control = true_effects(published, moving, test, AS_PUBLISHED.correcting("control"))
    assert (against_fit - against_control).std() < 1e-6 * against_fit.abs().mean()
    assert abs(float((against_fit - against_control).mean())) > 10 * float(against_control.abs().mean())


def test_refits_are_watched_by_training(right):
    test = right.test_example("max")
    watched = refitted(right, right.train.ids[:2], CORRECTED, epochs=7, watch=test).watched
    assert watched.shape == (1, 3, 7, 1)
    assert torch.allclose(watched[0, :, 0, 0], example_losses(right.objective, test)[0].expand(3))


def test_features_with_dropout_are_the_published_ones(objective, split):
    network = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10))
    dropped = features_with_dropout(Objective(network, CrossEntropy()), "3", split.train)
    whole = network[:2](split.train.inputs)
    kept = dropped != 0
    assert torch.allclose(dropped[kept], 2 * whole[kept])
    assert 0.3 < 1 - float(kept[whole > 0].double().mean()) < 0.7
    again = features_with_dropout(Objective(network, CrossEntropy()), "3", split.train)
    assert torch.equal(dropped, again)


def test_published_features_have_dropout_where_the_network_has_it(split):
    network = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10))
    objective = Objective(network, CrossEntropy())
    dropped, kept = (
        head_of(objective, split, choices) for choices in (AS_PUBLISHED, AS_PUBLISHED.correcting("evaluation_mode"))
    )
    assert torch.equal(dropped.train.inputs, features_with_dropout(objective, "3", split.train))
    assert torch.allclose(kept.train.inputs.float(), network[:2](split.train.inputs))
    assert torch.allclose(dropped.tests.inputs, network[:2](split.test.inputs))


def test_a_network_whose_last_layer_does_not_stand_for_it_is_refused(split):
    network = nn.Sequential(nn.Linear(64, 10), nn.Softplus())
    with pytest.raises(ValueError, match="the last layer has to stand for the network here, but the network does"):
        head_of(Objective(network, CrossEntropy()), split, CORRECTED)
