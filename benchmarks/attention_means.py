"""Where the mean of a small vision transformer goes astray: every module alone, and what the keys' scores share.

The network is that of `moment_structures`, trained under exact, diagonal moments and propagated with variance factors.
In the first table every value is replaced by its sampled moments: `own` is what its rule errs where all before it
are sampled, `logits` what the logits err where it alone is, `mean` where its mean alone is, and `onwards` where it and
all before it are. The second has ways to take the mean of an attention's softmax: scores as if they were independent,
which is the rule; with the covariance that scores of a query have because they share it; because they share the weights
of the keys, too; and with the sampled covariance. Errors are root mean squares in standard deviations.

    python -m benchmarks.attention_means
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from bayes_influence.experiments.training.settings import BAYESIAN_LEARNING_RATE, TrainRun
from bayes_influence.moments import Moments
from bayes_influence.moments.sampling import Posterior, RunningMoments
from bayes_influence.moments.softmax import TILTING_STEPS
from bayes_influence.moments.unfolded import UnfoldedAttention
from benchmarks.moment_structures import NETWORKS, agreement, at_start, built, calibrated, minimised

WAYS = ("independent", "shared queries", "shared queries and key weights", "sampled covariance")


class Trace:
    """What a pass of a network goes through, by path; and values that go on in place of its own.

    Attributes:
        way: How the mean of a softmax is taken, one of `WAYS`.
        covariances: Sampled ones of every attention's scores, by path: over the keys, for each query.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.seen, self.instead = network, {}, {}
        self.way, self.covariances = "independent", {}
        for path, module in network.named_modules():
            if type(module) is UnfoldedAttention:
                module.__class__, module.trace, module.path = TracedAttention, self, path
            elif path and not isinstance(module, TracedAttention | nn.ModuleList | nn.TransformerEncoder | nn.Dropout):
                module.register_forward_hook(partial(self._after, path))

    def _after(self, path: str, module: nn.Module, inputs: Any, output: Any) -> Any:
        return self.at(path, output)

    def at(self, path: str, value: Any) -> Any:
        """Keeps a value, and returns the one that goes on."""
        self.seen[path] = value
        found = self.instead.get(path)
        return value if found is None else Moments(found.expectation, found.variance, value.approximation)

    def run(self, inputs: Tensor, instead: Mapping[str, Moments]) -> dict[str, Moments]:
        """All values of a pass in which some are replaced."""
        self.seen, self.instead = {}, instead
        self.network(inputs)
        self.instead = {}
        return self.seen


class TracedAttention(UnfoldedAttention):
    """An attention of one sequence with itself, its inner values traced."""

    trace: Trace
    path: str

    def forward(self, query: Any, *others: Any, **masks: Any) -> tuple[Any, None]:
        """As of `UnfoldedAttention`, without masks."""
        q, k, v = (self._heads(project(query)) for project in (self.q_proj, self.k_proj, self.v_proj))
        scores = self.trace.at(f"{self.path}.scores", q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
        weights = functional.softmax(scores, dim=-1)
        if isinstance(scores, Moments) and self.trace.way != "independent":
            weights = self._tilted(scores, q, k, query)
        weights = self.trace.at(f"{self.path}.weights", weights)
        mixed = self.trace.at(f"{self.path}.mixed", weights @ v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None

    def _tilted(self, scores: Moments, q: Moments, k: Moments, x: Moments) -> Moments:
        """Of mean p = softmax(m + diag(C) / 2 - C p), variance p_i^2 (C_ii - 2 (C p)_i + p' C p), C over the keys."""
        covariance = self._covariance(scores.variance, q, k, x)
        own = covariance.diagonal(dim1=-2, dim2=-1)
        p = torch.softmax(scores.expectation, -1)
        for _ in range(TILTING_STEPS):
            p = (p + torch.softmax(scores.expectation + own / 2 - _applied(covariance, p), -1)) / 2
        along = _applied(covariance, p)
        spread = own - 2 * along + (p * along).sum(-1, keepdim=True)
        return Moments(p, p.square() * spread.clamp(min=0), scores.approximation)

    def _covariance(self, variance: Tensor, q: Moments, k: Moments, x: Moments) -> Tensor:
        """Of a query's scores over the keys: sum_d Var q_d k_d k'_d / D, and E q_d^2 sum_a Var W_da x_a x'_a / D."""
        if self.trace.way == "sampled covariance":
            return self.trace.covariances[self.path]
        keys, size = k.expectation, q.shape[-1]
        shared = torch.einsum("bhid,bhjd,bhkd->bhijk", q.variance, keys, keys)
        if self.trace.way == "shared queries and key weights":
            spread = torch.exp(2 * self.k_proj.weight_rho).unflatten(0, (self.num_heads, size))
            squares = torch.einsum("bhid,hda->bhia", q.expectation.square() + q.variance, spread)
            shared = shared + torch.einsum("bhia,bja,bka->bhijk", squares, x.expectation, x.expectation)
        shared = shared / size
        own = torch.diagonal(shared, dim1=-2, dim2=-1)
        return shared + torch.diag_embed((variance - own).clamp(min=0))


def _applied(covariance: Tensor, p: Tensor) -> Tensor:
    return (covariance @ p.unsqueeze(-1)).squeeze(-1)


def sampled_values(twin: nn.Module, inputs: Tensor, draws: int) -> tuple[dict[str, Moments], dict[str, Tensor]]:
    """Sampled moments of every value of a pass, and the covariances of every attention's scores over the keys."""
    posterior = Posterior.of(twin)
    trace = Trace(posterior.network)

    def values(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        trace.seen = {}
        torch.func.functional_call(posterior.network, weights, (x,))
        return dict(trace.seen)

    running: dict[str, RunningMoments] = {}
    products: dict[str, Tensor] = {}
    for chunk in posterior.samples(inputs, draws, torch.Generator().manual_seed(7), values):
        for path, drawn in chunk.items():
            running.setdefault(path, RunningMoments()).add(drawn)
            if path.endswith(".scores"):
                product = torch.einsum("sbhij,sbhik->bhijk", drawn, drawn) / draws
                products[path] = products.get(path, 0) + product
    found = {path: each.moments for path, each in running.items()}
    means = {path: found[path].expectation for path in products}
    covariances = {
        path.removesuffix(".scores"): product - means[path].unsqueeze(-1) * means[path].unsqueeze(-2)
        for path, product in products.items()
    }
    return found, covariances


def mean_correlation(covariance: Tensor) -> float:
    """Of all pairs of keys, by the sum of their covariances over that of equally correlated ones."""
    variances = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    return float(((covariance.sum((-2, -1)) - variances) / variances).mean()) / (covariance.shape[-1] - 1)


def error(found: Moments, sampled: Moments) -> float:
    """Of the mean, in standard deviations."""
    return agreement(found, sampled)["mean error"]


def of_values(trace: Trace, inputs: Tensor, sampled: dict[str, Moments]) -> pd.DataFrame:
    """The first table."""
    plain = trace.run(inputs, {})
    *_, end = sampled
    rows, before = [], {}
    for path, found in sampled.items():
        row = {"value": path, "propagated": error(plain[path], found)}
        row["own"] = error(trace.run(inputs, before)[path], found)
        before = before | {path: found}
        mean = Moments(found.expectation, plain[path].variance)
        for name, instead in {"logits": {path: found}, "mean": {path: mean}, "onwards": before}.items():
            row[name] = error(trace.run(inputs, instead)[end], sampled[end])
        rows.append(row)
    return pd.DataFrame(rows)


def of_ways(trace: Trace, inputs: Tensor, sampled: dict[str, Moments]) -> pd.DataFrame:
    """The second table."""
    *_, end = sampled
    shown = [path for path in sampled if path.endswith(("weights", "mixed"))] + [end]
    rows = []
    for trace.way in WAYS:
        found = trace.run(inputs, {})
        rows.append({"way": trace.way} | {path: error(found[path], sampled[path]) for path in shown})
    return pd.DataFrame(rows)


def main(
    epochs: Annotated[int, typer.Option(help="Of the training.")] = 60,
    examples: Annotated[int, typer.Option(help="Test examples.")] = 48,
    draws: Annotated[int, typer.Option(help="Draws of the weights.")] = 2400,
) -> None:
    """Trains, and prints both tables."""
    torch.set_num_threads(1)
    setting = NETWORKS["vit"]
    split = TrainRun(setting.dataset, "mlp").split()
    network, n = at_start(setting, split.train), len(split.train)
    beginning = built(network, setting, "exact", "diagonal", n)
    params = minimised(beginning, split.train, epochs, setting.batch_size, BAYESIAN_LEARNING_RATE).params
    twin = calibrated(built(network, setting, "exact", "calibrated", n).at(params), split.train).network
    inputs = split.test.inputs[:examples]
    with torch.no_grad():
        sampled, covariances = sampled_values(twin, inputs, draws)
        trace = Trace(twin)
        trace.covariances = covariances
        print(f"sampling noise {draws**-0.5:.3f}")
        for path, covariance in covariances.items():
            print(f"{path}: correlation of scores over the keys {mean_correlation(covariance):.2f}")
        for table in (of_values(trace, inputs, sampled), of_ways(trace, inputs, sampled)):
            print(table.to_string(index=False, float_format="{:.3f}".format), flush=True)


if __name__ == "__main__":
    typer.run(main)
