from itertools import pairwise

import pandas as pd
import pytest

from bayes_influence.experiments.papers.fragility.recipes import SHARES, STEPS, RecipeStudy
from bayes_influence.experiments.papers.fragility.training_recipe import (
    STUDIES,
    recipe_findings,
    recipe_table,
    recipes_figure,
)
from bayes_influence.experiments.papers.means import mean_table
from bayes_influence.experiments.store.drawings import stored_drawings


@pytest.fixture
def means():
    """Two recipes from two seeds, one of which is rough."""
    recipes, seeds = (("base", 0.1), ("best", 0.9)), range(2)
    slopes = pd.DataFrame(
        [
            {"recipe": recipe, "seed": seed, "step": step, "other": other, "pearson": value + seed / 100, "spearman": 0}
            for recipe, value in recipes
            for seed in seeds
            for step, other in pairwise(STEPS)
        ]
    )
    drops = pd.DataFrame(
        [
            {"recipe": recipe, "seed": seed, "share": share, "prediction": name, "pearson": value, "spearman": 0}
            for recipe, value in recipes
            for seed in seeds
            for share in SHARES
            for name in ("slope", "influence")
        ]
    )
    networks = pd.DataFrame({"recipe": ["base", "base", "best", "best"], "test_accuracy": [0.8, 0.9, 0.9, 0.9]})
    return (
        mean_table(slopes, ["recipe", "step", "other"], ["pearson", "spearman"]),
        mean_table(drops, ["recipe", "share", "prediction"], ["pearson", "spearman"]),
        mean_table(networks, ["recipe"], ["test_accuracy"]),
    )


def test_the_table_has_a_row_per_recipe(means):
    table = recipe_table(*means).set_index("recipe")
    assert table.loc["base"].to_dict() == pytest.approx(
        {
            "test_accuracy": 0.85,
            "slopes 1e-07 and 1e-05": 0.105,
            "slopes 1e-05 and 0.001": 0.105,
            "slopes 0.001 and 1": 0.105,
            "slope at 1%": 0.1,
            "slope at 5%": 0.1,
            "influence at 1%": 0.1,
            "influence at 5%": 0.1,
        }
    )


def test_sentences_have_every_recipe_and_the_range(means):
    base, best, slope, influence = recipe_findings(*means)
    assert base.startswith("base: test accuracy 0.85 (")
    assert "0.905 (0.841 … 0.969) between steps of 1e-05 and 0.001" in best
    assert "influence 0.9 (0.9 … 0.9) at 5% (2 seeds)." in best
    assert slope == (
        "By the recipe alone the slope's agreement with dropping 1% goes from 0.1 (0.1 … 0.1) (base) to 0.9 "
        "(0.9 … 0.9) (best)."
    )
    assert influence.startswith("By the recipe alone the influence's agreement")


def test_the_figure_has_a_line_per_recipe(means):
    figure = recipes_figure(*means)
    assert len(figure.axes) == 3
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["base (0.850)", "best (0.900)"]


def test_the_study_writes_tables_figure_and_sentences(tmp_path):
    (entry,) = STUDIES
    study = RecipeStudy(recipes=("base", "tanh"), train=100, epochs=4, examples=2, groups=3, repeats=2)
    found = entry.run(study, tmp_path, 1, False)
    assert found.table["recipe"].tolist() == ["base", "tanh"]
    assert len(found.findings) == 4
    assert {"recipes.csv", "slopes.csv", "drops-means.csv", "networks.csv", "training-recipe.png"} <= {
        one.name for one in tmp_path.iterdir()
    }
    assert set(stored_drawings(tmp_path)) == {"training-recipe"}
