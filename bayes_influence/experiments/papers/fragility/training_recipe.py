"""Where fragility is real, by training recipe: how smooth the map from weights to networks is, and what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.experiments.papers.fragility.recipes import SHARES, STEPS, RecipeStudy, measure_recipe
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.scaled import Measured, scaled_study
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style, series_style

CORRELATIONS = ("pearson", "spearman")

TITLES = {
    "slopes": "agreement of slopes\nbetween steps (smoothness)",
    "slope": "agreement of the map's own slope\nwith dropping",
    "influence": "agreement of influence (EK-FAC)\nwith dropping",
}
"""Of the figure's panels."""


def report_recipes(measured: Measured) -> Reproduced:
    """Draws smoothness and predictions by recipe; writes them, and their means over seeds."""
    slopes, drops, networks = (measured.table(name) for name in ("slopes", "drops", "networks"))
    smooth = measured.written("slopes-means", mean_table(slopes, ["recipe", "step", "other"], CORRELATIONS))
    predicted = measured.written("drops-means", mean_table(drops, ["recipe", "share", "prediction"], CORRELATIONS))
    scores = ["test_accuracy", "train_accuracy", "test_loss", "train_loss"]
    trained = measured.written("networks-means", mean_table(networks, ["recipe"], scores, ("test_accuracy",)))
    shown = recipe_table(smooth, predicted, trained)
    drawing = Drawing(recipes_figure, (smooth, predicted, trained))
    return measured.published(drawing, recipe_findings(smooth, predicted, trained), measured.written("recipes", shown))


def recipe_table(smooth: pd.DataFrame, predicted: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """One row per recipe: accuracy, and Pearson correlations, means over seeds.

    Args:
        smooth: Means of the agreement of slopes, by recipe and pair of steps.
        predicted: Means of the agreement of predictions, by recipe, share and prediction.
        trained: Means of accuracy, by recipe.
    """
    table = trained[["recipe", "test_accuracy"]].set_index("recipe")
    for step, other in pairwise(STEPS):
        rows = smooth[(smooth["step"] == step) & (smooth["other"] == other)]
        table[f"slopes {step:g} and {other:g}"] = rows.set_index("recipe")["pearson"]
    for prediction in ("slope", "influence"):
        for share in SHARES:
            rows = predicted[(predicted["prediction"] == prediction) & (predicted["share"] == share)]
            table[f"{prediction} at {share:.0%}"] = rows.set_index("recipe")["pearson"]
    return table.reset_index()


def recipe_findings(smooth: pd.DataFrame, predicted: pd.DataFrame, trained: pd.DataFrame) -> list[str]:
    """Per recipe how smooth the map is and what first-order predictions are worth; and the range over recipes.

    Args:
        smooth: Means of the agreement of slopes, by recipe and pair of steps.
        predicted: Means of the agreement of predictions, by recipe, share and prediction.
        trained: Means of accuracy, by recipe.
    """
    sentences = []
    for _, row in trained.iterrows():
        own, slopes = (table[table["recipe"] == row["recipe"]] for table in (predicted, smooth))
        between = ", ".join(
            f"{with_interval(part, 'pearson')} between steps of {part['step']:g} and {part['other']:g}"
            for _, part in slopes.iterrows()
        )
        said = ", ".join(
            f"{part['prediction']} {with_interval(part, 'pearson')} at {part['share']:.0%}"
            for _, part in own.iterrows()
        )
        sentences.append(
            f"{row['recipe']}: test accuracy {with_interval(row, 'test_accuracy')}; Pearson correlation of the slopes "
            f"{between}; of predictions with dropping {said} ({int(row['repeats'])} seeds)."
        )
    for prediction in ("slope", "influence"):
        rows = predicted[(predicted["prediction"] == prediction) & (predicted["share"] == SHARES[0])]
        ordered = rows.sort_values("pearson", kind="stable")
        low, high = ordered.iloc[0], ordered.iloc[-1]
        sentences.append(
            f"By the recipe alone the {prediction}'s agreement with dropping {SHARES[0]:.0%} goes from "
            f"{with_interval(low, 'pearson')} ({low['recipe']}) to {with_interval(high, 'pearson')} ({high['recipe']})."
        )
    return sentences


def recipes_figure(smooth: pd.DataFrame, predicted: pd.DataFrame, trained: pd.DataFrame) -> Figure:
    """A line per recipe with its test accuracy; panels of smoothness, and of what slope and influence predict."""
    recipes = list(trained["recipe"])
    with figure_style(9):
        figure = Figure(figsize=(10.5, 1.6 + 0.34 * len(recipes)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True, sharex=True)
        pairs = list(pairwise(STEPS))
        series = [
            (f"steps {step:g}, {other:g}", smooth[(smooth["step"] == step) & (smooth["other"] == other)])
            for step, other in pairs
        ]
        _draw_series(panels[0], series, recipes)
        for axes, prediction in zip(panels[1:], ("slope", "influence"), strict=True):
            own = predicted[predicted["prediction"] == prediction]
            _draw_series(axes, [(f"{share:.0%} dropped", own[own["share"] == share]) for share in SHARES], recipes)
        for axes, title in zip(panels, TITLES.values(), strict=True):
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("Pearson correlation")
            axes.axvline(0, color="lightgray", linewidth=0.8, zorder=0)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1, frameon=False, fontsize=8)
        labels = [f"{row['recipe']} ({row['test_accuracy']:.3f})" for _, row in trained.iterrows()]
        panels[0].set_yticks(range(len(recipes)), labels)
        panels[0].invert_yaxis()
        panels[0].set_ylabel("recipe (test accuracy)")
        panels[0].set_xlim(-1.05, 1.05)
        return figure


def _draw_series(axes: Axes, series: Sequence[tuple[str, pd.DataFrame]], recipes: Sequence[str]) -> None:
    for number, (name, rows) in enumerate(series):
        where = np.array([recipes.index(recipe) for recipe in rows["recipe"]]) + 0.2 * (number - (len(series) - 1) / 2)
        reach = [rows["pearson"] - rows["pearson_low"], rows["pearson_high"] - rows["pearson"]]
        errors = [part.clip(lower=0).fillna(0) for part in reach]
        style: dict[str, Any] = series_style(number)
        axes.errorbar(
            rows["pearson"], where, xerr=errors, label=name, linestyle="none", capsize=2, markersize=4, **style
        )


RECIPES = scaled_study(
    RecipeStudy(),
    "Beyond Epifano et al.: how smooth training is in the weights of examples, and what slopes predict, by recipe",
    measure_recipe,
    report_recipes,
)

STUDIES = (RECIPES,)
