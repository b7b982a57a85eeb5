import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_influence.experiments.papers.fragility.recipes import (
    RECIPES,
    SHARES,
    STEPS,
    Drawn,
    Recipe,
    RecipeStudy,
    measure_recipe,
    over_groups,
    perceptron,
    slope_agreement,
    trained_on,
)
from bayes_influence.models.initialisation import seeded
from bayes_influence.training.schedules import SWA
from bayes_influence.training.steps import derived_seed

SMALL = RecipeStudy(train=120, epochs=8, examples=2, groups=3, repeats=1)


def of_hand(recipe, study, split, weights, seed):
    """The same training by torch's own SGD, one network, its batches those of the library's orders."""
    with seeded(seed):
        network = perceptron(64, 10, study.size.widths, recipe.activation).double()
    steps = torch.optim.SGD(
        network.parameters(), recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    batches = -(-len(split.train) // recipe.batch)
    for epoch in range(study.size.epochs):
        order = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(derived_seed(seed, epoch, 0)))
        for rows in order.tensor_split(batches):
            losses = torch.nn.functional.cross_entropy(
                network(split.train.inputs[rows]), split.train.targets[rows], reduction="none"
            )
            steps.zero_grad()
            (weights[rows] * losses).mean().backward()
            steps.step()
    return network


def test_a_recipe_is_what_torch_trains_from_one_seed_on_the_weights_that_are_said():
    recipe, split = RECIPES["weight-decay"], SMALL.split(0)
    weights = torch.ones(2, 120, dtype=torch.float64)
    weights[1, 7] = 0.0
    trained = trained_on(recipe, SMALL, split.train, weights, 0)
    for row in range(2):
        network = of_hand(recipe, SMALL, split, weights[row], 0)
        for name, value in network.state_dict().items():
            assert torch.allclose(trained.params[name][row], value, rtol=1e-9, atol=1e-12)


def test_one_factor_is_changed_at_a_time():
    base = Recipe()
    changed = {
        name: [field for field, value in vars(recipe).items() if getattr(base, field) != value]
        for name, recipe in RECIPES.items()
    }
    assert changed.pop("base") == []
    assert changed.pop("best") == ["activation", *changed.pop("best-relu")]
    assert all(len(fields) == 1 for fields in changed.values())
    assert {fields[0] for fields in changed.values()} == set(vars(base))


def test_larger_batches_and_less_momentum_take_longer_steps():
    base = Recipe()
    assert Recipe(batch=250).rate == pytest.approx(5 * base.rate)
    assert Recipe(momentum=0.0).rate == pytest.approx(10 * base.rate)
    assert Recipe(averaged=True).averaging == SWA(learning_rate=base.rate)
    assert base.averaging is None


def test_slopes_are_changes_per_weight_taken_away_and_keep_the_sign_of_a_removal():
    """A loss that is linear in the weights, minus what the removed carry, has the same slope at every step."""
    drawn = Drawn.of(SMALL, 120, 0)
    weights = drawn.weights(120)
    assert weights.shape == (1 + len(STEPS) * 2 + 2 * len(SHARES) * 3, 120)
    assert weights[0].eq(1).all()
    removed = (1 - weights).sum(1)[-3:]
    assert removed.tolist() == [6.0] * 3
    carried = torch.randn(120, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    singles, groups = drawn.slopes(weights @ carried)
    assert torch.allclose(singles, -carried[drawn.examples].expand(len(STEPS), -1, -1), atol=1e-6)
    for share, (slope, true) in groups.items():
        expected = torch.stack([-carried[group].sum(0) for group in drawn.groups[share]])
        assert torch.allclose(true, expected)
        assert torch.allclose(slope, expected, atol=1e-7)


def test_agreement_is_between_neighbouring_steps_and_between_the_ends():
    slopes = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slopes[1] = 2 * slopes[0] + 1
    slopes[3] = -slopes[0]
    rows = slope_agreement(slopes)
    assert [(row["step"], row["other"]) for row in rows] == [(1e-7, 1e-5), (1e-5, 1e-3), (1e-3, 1.0), (1e-7, 1.0)]
    assert rows[0]["pearson"] == pytest.approx(1.0)
    assert rows[1]["pearson"] == pytest.approx(np.corrcoef(slopes[1].numpy().ravel(), slopes[2].numpy().ravel())[0, 1])
    assert rows[3]["spearman"] == pytest.approx(-1.0)


def test_predictions_are_held_against_groups_one_test_image_at_a_time():
    true = torch.tensor([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0]], dtype=torch.float64)
    predicted = torch.stack([true[:, 0] * 3, -true[:, 1]], dim=1)
    assert over_groups(predicted, true) == {"pearson": pytest.approx(0.0), "spearman": pytest.approx(0.0)}
    assert over_groups(true + 7, true)["pearson"] == pytest.approx(1.0)


def test_a_cell_measures_slopes_predictions_and_accuracy():
    """Of a smooth network and a short training, the slope predicts what dropping does, sign included."""
    cell = next(iter(replace(SMALL, recipes=("best",)).cells().values()))
    tables = measure_recipe(cell).tables
    slopes, drops = tables["slopes"], tables["drops"]
    assert (slopes["pearson"] > 0.99).all()
    assert drops["prediction"].tolist() == ["slope", "influence"] * len(SHARES)
    assert (drops.loc[drops["prediction"] == "slope", "pearson"] > 0.95).all()
    assert (drops["pearson"] > 0.2).all()
    assert 0 < tables["networks"]["test_accuracy"].item() <= 1


def test_images_are_standardised_and_of_the_study_s_size(patterns):
    study = RecipeStudy(scale="medium", train=120, repeats=1)
    split = study.split(0)
    assert split.train.inputs.shape == (120, 49)
    assert float(split.train.inputs.mean()) == pytest.approx(0.0, abs=1e-9)
    assert float(split.train.inputs.std()) == pytest.approx(1.0)
    assert SMALL.split(0).train.inputs.shape == (120, 64)
    assert (study.image_sets, SMALL.image_sets) == (("mnist",), ())


def test_recipes_can_be_added_to_a_folder():
    assert RecipeStudy(recipes=("tanh",)).configuration() == RecipeStudy().configuration()
    assert list(RecipeStudy(recipes=("tanh",), repeats=2).cells()) == ["part=tanh,seed=0", "part=tanh,seed=1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipes": ("adam",)}, "unknown recipe 'adam'; known: base, selu, tanh"),
        ({"scale": "huge"}, "unknown scale 'huge'; known: quick, medium, full"),
        ({"groups": 2}, "groups must be at least 3, got 2"),
        ({"examples": 301}, "there are 300 training images, got examples=301"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RecipeStudy(**settings)
