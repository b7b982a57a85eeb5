"""Tables of a study: one row per network, scheme and estimator, means over seeds with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from rich.table import Table

from bayes_influence.evaluation.agreement import statistic_interval
from bayes_influence.evaluation.comparisons import COMPARED, one_way_anova

KEYS = ["depth", "width", "scheme", "estimator"]

WITH_INTERVALS = (
    "spearman",
    "pearson",
    "kendall",
    "slope",
    "top_k_overlap",
    "hessian_max",
    "hessian_min",
    "loss_hessian_max",
    "loss_hessian_min",
    "power_iteration",
)
"""Columns that get an interval over seeds."""

CAPTION = (
    "mean ± half of the 95 % interval over seeds; truth: newton (the minimum) or warm (training from the fit); ‖∇J‖: "
    "worst gradient norm at the fit; drift: what retraining with "
    "nothing removed does to the test loss, in typical removal effects"
)

DRIFT_SHOWN = 1e-6
"""Drift of the control, in typical effects, below which the printed table has 0."""

MEANS = ("damping", "condition_number", "control_drift", "relative_drift")
"""Columns that get a mean over seeds."""

SCORES = {
    "train_accuracy": "train acc.",
    "test_accuracy": "test acc.",
    "train_rmse": "train RMSE",
    "test_rmse": "test RMSE",
    "train_loss": "train loss",
    "test_loss": "test loss",
}
"""Columns that get one, too, of which there are those that what is predicted has; the first two are shown."""

TRUTHS = {
    "newton": "the minimum of the objective without the example, by Newton's method",
    "warm": "training from the fit, with a control that removes nothing",
}
"""What the truth is held to be, by the name of the retraining protocol."""

SPECTRA = {
    "dense": "from the whole matrix",
    "lanczos": "by Lanczos (the largest from below, the smallest from above)",
    "none": "not computed: the loss of the mean network is not known",
}
"""How the spectrum of the loss was computed."""


def series_name(scheme: object, estimator: object) -> str:
    """What a scheme with its estimator is called, in tables, legends and sentences."""
    return str(scheme) if estimator == "influence" else f"{scheme} ({estimator})"


def summarise_results(results: pd.DataFrame) -> pd.DataFrame:
    """One row per depth, width, scheme and estimator.

    `<name>`, `<name>_low` and `<name>_high` for `WITH_INTERVALS`; plain means for `MEANS` and `SCORES`; the worst
    gradient norms; `miss_relations` out of `repeats`; `seconds` over all repeats.
    """
    rows = []
    for keys, group in results.groupby(KEYS, sort=False):
        row = dict(zip(KEYS, keys, strict=True)) | {"repeats": len(group)}
        for name in WITH_INTERVALS:
            interval = statistic_interval(name, group[name].to_numpy())
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        row |= {name: group[name].mean() for name in (*SCORES, *MEANS) if name in group}
        row |= {
            "truth": group["truth"].iloc[0],
            "test_examples": group["test_examples"].iloc[0] if "test_examples" in group else None,
            "miss_relations": int(group["miss_relation"].sum()),
            "gradient_norm": group["gradient_norm"].max(),
            "refit_gradient_norm": group["refit_gradient_norm"].max(),
            "refits_converged": bool(group["refits_converged"].all()),
            "seconds": group["seconds"].sum(),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def compare_groups(results: pd.DataFrame, value: str) -> pd.DataFrame:
    """One-way ANOVA of `value` between schemes at each size, and between sizes within a scheme; of one alone, none."""
    rows = []
    labelled = results.assign(group=results["scheme"] + " (" + results["estimator"] + ")")
    for (depth, width), at_size in labelled.groupby(["depth", "width"], sort=True):
        groups = {str(name): part[value].to_numpy() for name, part in at_size.groupby("group", sort=False)}
        if len(groups) > 1:
            rows.append(_anova_row("schemes", f"depth {depth}, width {width}", groups))
    for axis, fixed in (("depth", "width"), ("width", "depth")):
        for (held, name), part in labelled.groupby([fixed, "group"], sort=False):
            groups = {str(size): own[value].to_numpy() for size, own in part.groupby(axis, sort=True)}
            if len(groups) > 1:
                rows.append(_anova_row(f"{axis}s", f"{name}, {fixed} {held}", groups))
    return pd.DataFrame(rows, columns=["between", "at", *COMPARED])


def _anova_row(between: str, at: str, groups: Mapping[str, np.ndarray]) -> dict[str, float | str]:
    return {"between": between, "at": at, **one_way_anova(groups).to_row()}


def shown_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as people read it: means with half the width of their intervals, as text."""
    return pd.DataFrame([_shown_row(row) for _, row in summary.iterrows()])


def printed_table(summary: pd.DataFrame, title: str) -> Table:
    """The same as it is printed."""
    table = Table(title=title, caption=CAPTION, row_styles=["", "dim"])
    shown = shown_summary(summary)
    for heading in shown.columns:
        table.add_column(heading, justify="left" if heading in ("scheme", "truth") else "right", no_wrap=True)
    for cells in shown.itertuples(index=False):
        table.add_row(*cells)
    return table


def how_in_words(results: pd.DataFrame) -> list[str]:
    """One sentence per way in which networks were refitted, and per way in which their spectra were computed."""
    ways = {"truth": ("Truth", TRUTHS), "spectrum": ("Spectrum of the loss", SPECTRA)}
    sentences = []
    for column, (what, known) in ways.items():
        for way, rows in results.groupby(column, sort=False):
            schemes = ", ".join(rows["scheme"].unique())
            sentences.append(f"{what}, {schemes}: {known.get(str(way), way)}.")
    return sentences


def _shown_row(row: pd.Series) -> dict[str, str]:
    scores = [name for name in SCORES if name in row and not pd.isna(row[name])][:2]
    return {
        "scheme": series_name(row["scheme"], row["estimator"]),
        **dict(_shown_score(row, name) for name in scores),
        "Spearman": _with_interval(row, "spearman", 3),
        "Pearson": _with_interval(row, "pearson", 3),
        "slope": _with_interval(row, "slope", 2),
        "miss-rel.": f"{row['miss_relations']}/{row['repeats']}",
        "λ max": _with_interval(row, "hessian_max", None),
        "λ min": _with_interval(row, "hessian_min", None),
        "truth": row["truth"],
        "damping": f"{row['damping']:.2g}" if row["damping"] else "0",
        "‖∇J‖": f"{row['gradient_norm']:.0e}",
        "drift": f"{row['relative_drift']:.2g}" if row["relative_drift"] > DRIFT_SHOWN else "0",
        "seconds": f"{row['seconds']:.1f}",
    }


def _shown_score(row: pd.Series, name: str) -> tuple[str, str]:
    """A score with its heading; of a single test example in how many seeds it is predicted right, which is no rate."""
    if name == "test_accuracy" and row.get("test_examples") == 1:
        return "test right", f"{round(row[name] * row['repeats'])}/{row['repeats']}"
    return SCORES[name], f"{row[name]:.3f}"


def _with_interval(row: pd.Series, column: str, digits: int | None) -> str:
    half = max(row[f"{column}_high"] - row[column], row[column] - row[f"{column}_low"])
    number, spread = (f"{value:.{digits}f}" if digits else f"{value:.2g}" for value in (row[column], half))
    return number if pd.isna(half) else f"{number} ±{spread}"
