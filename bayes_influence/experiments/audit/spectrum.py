"""The spectrum behind an audited estimate: eigenvalues or their density, and where in it the scores come from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayes_influence.curvature.cost import DENSE_SIZE
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.spectrum.density import SpectralDensity, spectral_density
from bayes_influence.curvature.spectrum.extremes import ExtremeEigenvalues, extreme_eigenvalues
from bayes_influence.curvature.spectrum.lanczos import lanczos
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.spectral_attribution import ROUNDING, score_shares, spectral_attribution, trace_shares
from bayes_influence.influence.influence import Influence

PROBES, STEPS = 4, 40
"""Of stochastic Lanczos quadrature, and Lanczos steps from every test gradient: 160 + 40 t products. Of a density's two
ends, mean and effective dimension that is enough for two digits."""


def audit_spectrum(
    influence: Influence, curvature: str, delta: float, removed: Dataset, test: Dataset
) -> dict[str, pd.DataFrame]:
    """Spectra of the objective's Hessian and of the estimate's curvature, both in the metric of the damping.

    Args:
        influence: The estimate; its curvature in the selected parameters is looked at.
        curvature: What that is called.
        delta: Of its damping.
        removed: The removed examples.
        test: Test examples.

    Returns:
        Tables `spectrum` (both ends, trace, effective dimension), `eigenvalues` (with how many each stands for: 1, or
        more where P is large and they are nodes of a quadrature of the density), and `attribution` (a row per test
        example and band).
    """
    problem = influence.problem
    metric = influence.damping.diagonal(problem.reduced) / delta
    operators: dict[str, LinearOperator] = {}
    kind = influence.response.curvature
    name = "hessian = ggn" if problem.is_linear_head else curvature
    if not (problem.is_linear_head or kind.is_exact_hessian):
        operators["hessian"] = WhitenedOperator(
            HessianOperator(problem.reduced, problem.data, problem.batch_size), metric
        )
    operators[name] = WhitenedOperator(kind.operator(problem.reduced, problem.data, problem.batch_size), metric)
    scale = metric.rsqrt()
    examples = problem.gradients(*problem.taken(removed)) * scale
    tests = problem.gradients(*problem.taken(test)) * scale
    measure = _all_eigenvalues if problem.size <= DENSE_SIZE else _densities
    spectra, attribution = measure(operators, examples, tests, delta, len(problem.data))
    lists = [
        pd.DataFrame({"matrix": name, "eigenvalue": values, "count": counts})
        for name, (values, counts, _) in spectra.items()
    ]
    return {
        "spectrum": pd.DataFrame([_row(name, *found, delta) for name, found in spectra.items()]),
        "eigenvalues": pd.concat(lists, ignore_index=True),
        "attribution": pd.concat(
            [part.assign(test=index) for index, part in zip(test.ids.tolist(), attribution, strict=True)],
            ignore_index=True,
        ),
    }


Spectrum = tuple[np.ndarray, np.ndarray, ExtremeEigenvalues]
"""Values in ascending order, how many eigenvalues each stands for, and both ends."""


def _all_eigenvalues(
    operators: dict[str, LinearOperator], examples: Tensor, tests: Tensor, delta: float, n_train: int
) -> tuple[dict[str, Spectrum], list[pd.DataFrame]]:
    """From the dense matrices; the last one's eigenvectors, the estimate's, split the scores."""
    spectra: dict[str, Spectrum] = {}
    for name, operator in operators.items():
        values, vectors = torch.linalg.eigh(operator.dense())
        ends = ExtremeEigenvalues(float(values[-1]), float(values[0]))
        spectra[name] = values.numpy(), np.ones(len(values)), ends
    rows = (examples @ vectors).numpy()
    return spectra, [spectral_attribution(values.numpy(), row.numpy(), rows, delta, n_train) for row in tests @ vectors]


def _densities(
    operators: dict[str, LinearOperator], examples: Tensor, tests: Tensor, delta: float, n_train: int
) -> tuple[dict[str, Spectrum], list[pd.DataFrame]]:
    """By stochastic Lanczos quadrature; scores are split over the Ritz pairs of their own test gradient."""
    spectra: dict[str, Spectrum] = {}
    for name, operator in operators.items():
        density = spectral_density(operator, probes=PROBES, steps=STEPS)
        spectra[name] = *_sorted_nodes(density), extreme_eigenvalues(operator, max_products=STEPS)
    values, counts, ends = spectra[name]
    bands = trace_shares(values, counts, delta)
    found = lanczos(operator, tests.T.contiguous(), STEPS)
    attribution = []
    for test, basis, ritz, vectors in zip(tests, found.bases, *found.eigensystems(), strict=True):
        own = float(test.norm()) * vectors[0]
        rows = (examples @ basis.T).to(vectors) @ vectors
        shares = score_shares(ritz.numpy(), own.numpy(), rows.numpy(), delta, n_train, ends.largest)
        attribution.append(bands.merge(shares, on="band"))
    return spectra, attribution


def _sorted_nodes(density: SpectralDensity) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of all probes in ascending order, and how many eigenvalues each stands for."""
    nodes, order = density.nodes.flatten().sort()
    counts = density.weights.flatten()[order] * density.size / len(density.nodes)
    return nodes.numpy(), counts.numpy()


def _row(
    name: str, values: np.ndarray, counts: np.ndarray, ends: ExtremeEigenvalues, delta: float
) -> dict[str, object]:
    """Both ends, trace, and the effective dimension sum lambda / (lambda + delta) over the positive eigenvalues."""
    positive = np.maximum(values, 0)
    return {
        "matrix": name,
        "parameters": round(counts.sum()),
        "largest": ends.largest,
        "smallest": ends.smallest,
        "negative": float(counts[values < -ROUNDING * ends.largest].sum()),
        "trace": float((counts * values).sum()),
        "damping": delta,
        "effective_dimension": float((counts * positive / (positive + delta)).sum()),
    }
