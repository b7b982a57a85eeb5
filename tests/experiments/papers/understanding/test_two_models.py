import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.understanding.convolutions import tanh_convolutions
from bayes_influence.experiments.papers.understanding.paired_digits import on_learned_features
from bayes_influence.experiments.papers.understanding.smooth_hinge import smooth_machines
from bayes_influence.experiments.papers.understanding.two_models import (
    KERNEL,
    MODELS,
    NETWORK,
    STUDIES,
    KernelFeatures,
    TwoModels,
    shared_example,
    squared_distances,
)
from bayes_influence.experiments.store.folder import StudyFolder

SMALL = TwoModels(train=30, feature_images=60, width=2, side=4, removals=6)


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(20) % 2
    inputs = 0.5 * (2.0 * targets[:, None] - 1) + torch.randn(20, 2, generator=generator, dtype=torch.float64)
    return Dataset(inputs, targets, torch.arange(100, 120), name="points")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 19}, "train must be at least 20, got 19"),
        ({"removals": 2}, "removals must be at least 3, got 2"),
        ({"side": 2}, "side must be at least 4 for two convolutions, got 2; take 7 or 14"),
        ({"train": 30, "removals": 31}, "only 30 images can be removed one at a time, got 31"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TwoModels(**settings)


def test_products_of_features_are_the_kernel_where_one_of_two_is_a_training_image(points):
    features = KernelFeatures.of(points.inputs)
    away = points.with_inputs(points.inputs + 0.3)
    own, other = features(points).inputs, features(away).inputs
    apart = (points.inputs[:, None] - away.inputs[None]).square().sum(dim=2)
    torch.testing.assert_close(squared_distances(points.inputs, away.inputs), apart)
    between = [float(d) for d in squared_distances(points.inputs, points.inputs).flatten() if d > 0]
    assert features.gamma == pytest.approx(1 / np.sort(between)[(len(between) - 1) // 2])
    torch.testing.assert_close(own @ other.T, torch.exp(-features.gamma * apart), rtol=0, atol=1e-8)


def test_the_machine_in_features_is_the_kernel_machine_without_an_image_too(points):
    """f = sum_j a_j k(x_j, .) over the images that remain, by scipy: the feature of the removed one is no help."""
    features, t, decay = KernelFeatures.of(points.inputs), 0.3, 0.05
    away = points.with_inputs(points.inputs + 0.3)
    for rows in (range(20), range(1, 20)):
        left = points.select(rows)
        machine = smooth_machines(features(left), (t,), decay)[t]
        found = machine.outputs(machine.params, features(away).inputs)[:, 0].detach()
        gram = torch.exp(-features.gamma * squared_distances(left.inputs, left.inputs)).numpy()
        signs = 2.0 * left.targets.numpy() - 1

        def objective(a, gram=gram, signs=signs):
            slack = (1 - signs * (gram @ a)) / t
            slope = -signs / (1 + np.exp(-slack)) / len(signs)
            return t * np.logaddexp(0, slack).mean() + decay / 2 * a @ gram @ a, gram @ (slope + decay * a)

        a = scipy.optimize.minimize(objective, np.zeros(len(rows)), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        expected = np.exp(-features.gamma * squared_distances(away.inputs, left.inputs).numpy()) @ a
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_image_that_is_explained_is_right_under_both_and_within_the_margin(pair):
    others, drawn = SMALL.drawn(0, flat=False)
    train, test = drawn.train, drawn.test
    features = KernelFeatures.of(train.inputs)
    kernel = smooth_machines(features(train), (0.001,), 0.01)[0.001]
    network = on_learned_features(partial(tanh_convolutions, 4, 2, seed=0), others, train, 0.01, 0)
    one = shared_example(kernel, network, features(test), test)
    sign = 2 * int(one.targets[0]) - 1
    score = sign * float(kernel.outputs(kernel.params, features(one).inputs))
    assert 0 < score < 1
    assert int(network.outputs(network.params, one.inputs).argmax()) == int(one.targets[0])
    far = test.select((test.targets == 1 - one.targets[0]).nonzero()[:, 0])
    swapped = Dataset(far.inputs, 1 - far.targets, far.ids, name="swapped")
    classes = (kernel.outputs(kernel.params, features(swapped).inputs)[:, 0] > 0).long()
    wrong = swapped.select((classes != swapped.targets).nonzero()[:, 0])
    with pytest.raises(ValueError, match="no test image of swapped is right under both models"):
        shared_example(kernel, network, features(wrong), wrong)


@pytest.mark.slow
def test_the_study_holds_both_models_against_retraining_on_one_test_image(pair, tmp_path):
    done = STUDIES[0].run(SMALL, tmp_path, 1, False)
    images = pd.read_csv(tmp_path / "images.csv")
    assert images.groupby("model").size().to_dict() == {KERNEL: 30, NETWORK: 30}
    assert images.groupby("model")["true"].count().to_dict() == {KERNEL: 6, NETWORK: 6}
    table = done.table.set_index("model")
    assert tuple(table.index) == MODELS
    assert table.loc[KERNEL, "pearson"] > 0.4
    assert table.loc[NETWORK, "pearson"] > 0.99
    own = images[images["model"] == NETWORK]
    some = own[own["estimated"].abs() > 0.05 * own["estimated"].abs().max()]
    ranks = np.corrcoef(some["estimated"].abs().rank(), -some["distance"].rank())[0, 1]
    assert table.loc[NETWORK, "spearman"] == pytest.approx(ranks)
    assert table.loc[NETWORK, "other_helpful"] == pytest.approx(1 - own.nlargest(20, "estimated")["same"].mean())
    assert table.loc[NETWORK, "same_harmful"] == pytest.approx(own.nsmallest(20, "estimated")["same"].mean())
    arrays = StudyFolder.open(tmp_path).load_cell("seed=0").arrays
    kernel = images[images["model"] == KERNEL]
    apart = np.square(arrays["pictures"] - arrays["shown"]).sum(axis=(1, 2))
    np.testing.assert_allclose(kernel["distance"], apart)
    assert done.findings[0].startswith("RBF kernel machine: Spearman of |influence| and closeness in pixels ")
    assert all(path.exists() for path in done.figures)
