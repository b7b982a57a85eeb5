"""The pictures of the pages in this folder, each from a real run, with the numbers that the pages quote.

python docs/estimands/figures.py                # all of them
python docs/estimands/figures.py groups elbo    # some
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from drawing import panels, scatter
from matplotlib.figure import Figure
from problems import bayesian_iris, cancer, changes, fitted, logistic, refits
from torch import Tensor, nn

import bayes_influence as bi
from bayes_influence.data.synthetic import linear_regression
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.influence.linear_response import linear_response_covariance
from bayes_influence.influence.measurements import Margin, OutputVariance, PredictiveEntropy, PredictiveVariance
from bayes_influence.influence.memory_perturbation import laplace_posterior, memory_perturbation
from bayes_influence.influence.perturbation import training_set_attack
from bayes_influence.influence.posterior_samples import PosteriorSamples
from bayes_influence.objectives.objective import Likelihood
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.nuts import nuts_reference

IMAGES = Path(__file__).parents[1] / "images"
FRACTIONS = (0.05, 0.2, 0.4, 0.6)


# One function per page; its name is the page's and the picture's.


def removal() -> Figure:
    """Every training example left out, five test losses."""
    train, test = cancer().train, cancer().test.select(range(5))
    figure, axes = panels(3)
    alone = list(train.ids.unsqueeze(1))
    for each, (name, objective) in zip(axes, fitted().items(), strict=False):
        influence = bi.Influence(objective, train, damping=0.0)
        truth = changes(objective, refits(objective, train, alone), test, objective.likelihood)
        scatter(each, influence.on_loss(test).removal, truth, name)
    found = [influence.of_group(ids) for ids in alone]
    near = torch.tensor([group.bend < 0.3 for group in found])
    steps = torch.stack([group.on_loss(test) for group in found], dim=1)[:, near]
    scatter(axes[2], steps, truth[:, near], f"of_group([i]), the {int(near.sum())} with bend < 0.3")
    axes[0].set_ylabel("true change of the test loss")
    return figure


def parameters() -> Figure:
    """The 100 examples of largest loss left out, every parameter."""
    train = cancer().train
    figure, axes = panels(2)
    for each, (name, objective) in zip(axes, fitted().items(), strict=True):
        worst = train.ids[objective.losses(objective.params, train.batch()).topk(100).indices]
        after = refits(objective, train, list(worst.unsqueeze(1)))
        start = objective.layout.flatten(objective.params)
        truth = torch.stack([objective.layout.flatten(refit.params) - start for refit in after])
        scatter(each, bi.Influence(objective, train, damping=0.0).on_parameters(worst), truth, name)
    axes[0].set_ylabel("true change of a parameter")
    return figure


def measurement() -> Figure:
    """Margin, entropy and variance of five predictions."""
    train, test, objective = cancer().train, cancer().test.select(range(5)), logistic()
    influence = bi.Influence(objective, train, damping=0.0)
    after = refits(objective, train, list(train.ids.unsqueeze(1)))
    figure, axes = panels(3)
    measures: list[Likelihood] = [
        each(objective.likelihood) for each in (Margin, PredictiveEntropy, PredictiveVariance)
    ]
    for each, measure in zip(axes, measures, strict=True):
        estimate = influence.on_measurement(measure, test).removal
        scatter(each, estimate, changes(objective, after, test, measure), type(measure).__name__)
    axes[0].set_ylabel("true change")
    return figure


def self_influence() -> Figure:
    """One label in ten of the digits flipped: who finds them first?"""
    split = hold_out(load_table("digits"), seed=0)
    generator = torch.Generator().manual_seed(0)
    n = len(split.train)
    flipped = torch.randperm(n, generator=generator)[: n // 10]
    targets = split.train.targets.clone()
    targets[flipped] = (targets[flipped] + torch.randint(1, 10, (len(flipped),), generator=generator)) % 10
    train = replace(split.train, targets=targets)
    objective = minimum_of(bi.Objective(nn.Linear(64, 10), bi.CrossEntropy(), bi.WeightDecay(0.01)), train)
    scores = bi.Influence(objective, train, damping=0.0).self_influence()
    orders = {
        "self-influence": scores.argsort(descending=True),
        "training loss": objective.losses(objective.params, train.batch()).argsort(descending=True),
        "at random": torch.randperm(n, generator=generator),
    }
    wrong = torch.zeros(n).index_fill(0, flipped, 1.0)
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.6])
    axes = left.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    for name, order in orders.items():
        found = wrong[order].cumsum(0) / len(flipped)
        axes.plot(np.arange(1, n + 1) / n, found, label=name)
        print(f"  {name}: {float(found[n // 10 - 1]):.3f} of the flips in the first tenth")
    axes.legend(frameon=False, fontsize=8)
    axes.set_xlabel("fraction inspected")
    axes.set_ylabel("fraction of wrong labels found")
    raw = load_table("digits").at(train.ids)
    for position, cell in zip(orders["self-influence"].tolist(), right.subplots(2, 8).ravel(), strict=False):
        cell.imshow(raw.inputs[position].reshape(8, 8), cmap="gray_r")
        cell.set_title(f"{targets[position]}", color="tab:red" if wrong[position] else "black", fontsize=10)
        cell.set_axis_off()
    right.suptitle("largest self-influence; the given label, red where it was flipped", fontsize=9)
    return figure


def perturbation() -> Figure:
    """Four training digits moved so that one test prediction flips."""
    split = hold_out(load_table("digits"), seed=0)
    raw = load_table("digits")
    train, test = (replace(raw.at(part.ids), inputs=raw.at(part.ids).inputs / 16) for part in (split.train, split.test))
    objective = minimum_of(bi.Objective(nn.Linear(64, 10), bi.CrossEntropy(), bi.WeightDecay(0.001)), train)
    margins = Margin(objective.likelihood)(objective.outputs(objective.params, test.inputs), test.targets)
    victim = test.select([int(torch.where(margins > 0, margins, torch.inf).argmin())])
    influence = bi.Influence(objective, train, damping=0.0)
    ids = influence.on_loss(victim).top(4)
    slopes = influence.of_perturbation(ids, victim)[0]
    attack = training_set_attack(objective, train, victim, ids, step=0.02, steps=10)
    after = attack.objective.outputs(attack.objective.params, victim.inputs).argmax()
    print(f"  margin {float(margins[margins > 0].min()):.3f}; label {int(victim.targets[0])}, after {int(after)}")
    print(f"  losses {[round(float(loss), 3) for loss in attack.losses]}; ids {ids.tolist()}")
    rows = {"as it was": train.at(ids).inputs, "influence of its pixels": slopes, "moved": attack.train.at(ids).inputs}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    for cells, (name, images) in zip(left.subplots(3, 4), rows.items(), strict=True):
        for cell, image in zip(cells, images, strict=True):
            signed = name.startswith("influence")
            reach = {"vmin": -float(slopes.abs().max()), "vmax": float(slopes.abs().max())} if signed else {}
            cell.imshow(image.detach().reshape(8, 8), cmap="RdBu_r" if signed else "gray_r", **reach)
            cell.set_xticks([])
            cell.set_yticks([])
        cells[0].set_ylabel(name, fontsize=8)
    image, axes = right.subplots(1, 2, width_ratios=[1, 2])
    image.imshow(victim.inputs.reshape(8, 8), cmap="gray_r")
    image.set_title(f"test image: {int(victim.targets[0])}\nafterwards: {int(after)}", fontsize=9)
    image.set_axis_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.plot(attack.losses, ".-")
    axes.set_xlabel("steps of 0.02")
    axes.set_title("its loss after each refit", fontsize=9)
    return figure


def groups() -> Figure:
    """Groups of 5 to 60 %, each order of prediction."""
    train, test, objective = cancer().train, cancer().test, logistic()
    influence = bi.Influence(objective, train, damping=0.0)
    generator = torch.Generator().manual_seed(0)
    sizes = [round(fraction * len(train)) for fraction in FRACTIONS for _ in range(3)]
    chosen = [train.ids[torch.randperm(len(train), generator=generator)[:size]] for size in sizes]
    truth = changes(objective, refits(objective, train, chosen), test, objective.likelihood)
    figure, axes = panels(4, 2.6, 2.9)
    for each, order in zip(axes, (1, 2, "newton", "newton-chebyshev"), strict=True):
        estimate = torch.stack([influence.of_group(ids, order=order).on_loss(test) for ids in chosen], dim=1)
        scatter(each, estimate, truth, f"order {order}")
    axes[0].set_ylabel("true change of the test loss")
    return figure


def selection() -> Figure:
    """True effect of the groups that every method selects, against their size."""
    train, objective = cancer().train, logistic()
    losses = objective.losses(objective.params, cancer().test.batch())
    test = cancer().test.select([int(losses.median(0).indices)])
    influence = bi.Influence(objective, train, damping=0.0)
    sizes = (2, 4, 8, 16, 32)
    generator = torch.Generator().manual_seed(0)

    def true_effect(ids: Tensor) -> float:
        return float(changes(objective, refits(objective, train, [ids]), test, objective.likelihood))

    figure, (axes,) = panels(1, 4.2, 3.2)
    for method in ("first-order", "monotone-top-k", "projected-gradient", "greedy", "adaptive-greedy"):
        effects = [true_effect(influence.select_group(test, size, method=method).ids) for size in sizes]
        axes.plot(sizes, effects, ".-", label=method)
        print(f"  {method}: {[round(effect, 4) for effect in effects]}")
    picks = [[train.ids[torch.randperm(len(train), generator=generator)[:k]] for _ in range(20)] for k in sizes]
    axes.plot(sizes, [np.mean([true_effect(ids) for ids in some]) for some in picks], "k:", label="at random (mean)")
    axes.set_xlabel("examples removed")
    axes.set_ylabel("true change of the test loss")
    axes.legend(frameon=False, fontsize=8)
    return figure


def elbo() -> Figure:
    """Losses and output variances after every removal, and the standard deviations that linear response corrects."""
    split, objective = bayesian_iris()
    train, test = split.train, split.test.select(range(5))
    influence = bi.Influence(objective, train, damping=0.0)
    after = refits(objective, train, list(train.ids.unsqueeze(1)))
    figure, axes = panels(3)
    estimate = influence.on_loss(test).removal
    scatter(axes[0], estimate, changes(objective, after, test, objective.likelihood), "expected loss", "tab:purple")
    measure = OutputVariance()
    estimate = influence.on_measurement(measure, test).removal
    scatter(axes[1], estimate, changes(objective, after, test, measure), "variance of the logits", "tab:purple")
    axes[0].set_ylabel("true change")
    plain = nn.Linear(4, 3).double()
    drawn = nuts_reference(plain, train, test.inputs, draws=1000).params
    true = torch.cat([drawn["weight"].flatten(1), drawn["bias"]], dim=1).std(dim=0)
    corrected = linear_response_covariance(influence.response).diagonal().sqrt()
    params = objective.params
    own = torch.cat([params["weight_rho"].flatten(), params["bias_rho"]]).exp()
    for name, values, colour in (("q itself", own, "gray"), ("linear response", corrected, "tab:purple")):
        axes[2].plot(values, true, "o", color=colour, label=name, markersize=4)
        print(f"  {name}: median of sd / NUTS sd {float((values / true).median()):.3f}")
    axes[2].set(xlim=(0.2, 1), ylim=(0.2, 1), aspect="equal")
    axes[2].plot([0.2, 1], [0.2, 1], color="gray", linewidth=0.8)
    axes[2].legend(frameon=False, fontsize=8)
    axes[2].set_xlabel("standard deviation of a weight")
    axes[2].set_ylabel("by NUTS")
    return figure


def posterior_mean() -> Figure:
    """Variances frozen, against refits of the means alone and of everything."""
    split, objective = bayesian_iris()
    train, test = split.train, split.test.select(range(5))
    means = replace(objective, parameters="means")
    estimate = bi.Influence(means, train, damping=0.0).on_loss(test).removal
    figure, axes = panels(2)
    for each, (name, problem) in zip(axes, {"means refitted": means, "all refitted": objective}.items(), strict=True):
        after = refits(problem, train, list(train.ids.unsqueeze(1)))
        scatter(each, estimate, changes(objective, after, test, objective.likelihood), name, "tab:purple")
    axes[0].set_ylabel("true change of the expected loss")
    return figure


def posterior_samples() -> Figure:
    """Bayesian linear regression with an outlier: samples against the closed form."""
    data = linear_regression(60, n_features=3, noise=1.0, seed=0).dataset
    targets = data.targets.clone()
    targets[7] += 6.0
    data = replace(data, targets=targets)
    design = torch.cat([data.inputs, torch.ones(60, 1, dtype=torch.float64)], dim=1)
    query = torch.tensor([0.5, -1.0, 1.0, 1.0], dtype=torch.float64)

    def posterior(weights: Tensor) -> tuple[Tensor, Tensor]:
        precision = (design * weights.unsqueeze(1)).T @ design + torch.eye(4, dtype=torch.float64)
        covariance = torch.linalg.inv(precision)
        return covariance @ design.T @ (weights * data.targets[:, 0]), covariance

    mean, covariance = posterior(torch.ones(60, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 4, generator=generator, dtype=torch.float64)
    drawn = mean + noise @ torch.linalg.cholesky(covariance).T
    losses = 0.5 * (data.targets[:, 0] - drawn @ design.T).square()
    samples = PosteriorSamples(losses, (drawn @ query).unsqueeze(1), data.ids, torch.tensor([0]))
    truth = torch.stack([query @ (posterior((torch.arange(60) != i).double())[0] - mean) for i in range(60)])
    figure, axes = panels(3)
    ways = {"covariance": samples.removal(1), "with third cumulant": samples.removal(2)}
    ways["importance weights"] = samples.reweighted_removal()
    for each, (name, estimate) in zip(axes, ways.items(), strict=True):
        scatter(each, estimate[0], truth, name, "tab:purple")
    axes[0].set_ylabel("true change of a predicted mean")
    shapes = samples.tail_shape()
    print(f"  tail shape of the outlier {float(shapes[7]):.2f}, median {float(shapes.median()):.2f}")
    return figure


def memory_perturbation_equation() -> Figure:
    """How an example's own margin moves when it is forgotten: v_i e_i against refits."""
    train, objective = cancer().train, logistic()
    found = memory_perturbation(laplace_posterior(objective, train))
    after = refits(objective, train, list(train.ids.unsqueeze(1)))
    own = torch.stack([refit.outputs(refit.params, train.inputs[i]) for i, refit in enumerate(after)])
    truth = own - objective.outputs(objective.params, train.inputs)
    figure, axes = panels(2)
    scatter(axes[0], found.output_change, truth, "v e, no solve per example", "tab:purple")
    moved = torch.einsum("nd,ncd->nc", train.inputs, found.mean_change[:, :60].unflatten(1, (2, 30)))
    scatter(axes[1], moved + found.mean_change[:, 60:], truth, "the precision without it", "tab:purple")
    axes[0].set_ylabel("true change of its own logits")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "removal": removal,
    "parameters": parameters,
    "measurement": measurement,
    "self-influence": self_influence,
    "perturbation": perturbation,
    "groups": groups,
    "group-selection": selection,
    "elbo": elbo,
    "posterior-mean": posterior_mean,
    "posterior-samples": posterior_samples,
    "memory-perturbation": memory_perturbation_equation,
}


def main(names: Annotated[list[str] | None, typer.Argument(help="Pictures; all when not given.")] = None) -> None:
    """Draws pictures into docs/images/estimand-NAME.png and prints what they show."""
    torch.set_num_threads(1)
    for name in names or PICTURES:
        print(name)
        PICTURES[name]().savefig(IMAGES / f"estimand-{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(main)
