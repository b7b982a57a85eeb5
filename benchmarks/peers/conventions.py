"""Verifies every conversion of sign and scale between the libraries, in float64 on a tiny L2 logistic regression.

Each line of the printed table is a claim about what a library returns, and how far the library is from it. The claims
are those of docs/peers.md; this library's removal effect is +1/n g_t' (H + lambda I + delta I)^-1 g_i throughout.

    python -m benchmarks.peers.conventions
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import typer
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap
from torch.nn.functional import cross_entropy

from bayes_influence.models.mlp import MLP
from benchmarks.peers.installed import adapter, present
from benchmarks.peers.problem import Problem

EXAMPLES, TESTS, FEATURES, CLASSES = 60, 5, 4, 3
DAMPING, DECAY = 0.3, 0.05


@dataclass(frozen=True, eq=False)
class Dense:
    """Everything in the formulas, from plain automatic differentiation.

    Attributes:
        hessian: H of the mean loss, without the regulariser.
        examples: g_i as rows.
        tests: g_t as rows.
        theta: The parameters.
    """

    hessian: Float[Tensor, "P P"]
    examples: Float[Tensor, "n P"]
    tests: Float[Tensor, "t P"]
    theta: Float[Tensor, " P"]

    def scores(self, curvature: Tensor, shift: float, examples: Tensor | None = None) -> Float[Tensor, "t n"]:
        """g_t' (curvature + shift I)^-1 g_i."""
        damped = curvature + shift * torch.eye(len(curvature), dtype=torch.float64)
        return self.tests @ torch.linalg.solve(damped, (self.examples if examples is None else examples).T)


@dataclass(frozen=True)
class Claim:
    """What a library returns, and the relative distance of what it returned from that."""

    library: str
    formula: str
    distance: float


def tiny_problem(depth: int = 0, decay: float = DECAY, batch_size: int = EXAMPLES) -> Problem:
    """Sixty examples of three classes in four features; a linear model, or one with hidden layers."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(EXAMPLES + TESTS, FEATURES, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, CLASSES, (EXAMPLES + TESTS,), generator=generator)
    return Problem(
        MLP(FEATURES, CLASSES, depth=depth, seed=0).double().eval(),
        inputs[:EXAMPLES],
        targets[:EXAMPLES],
        inputs[EXAMPLES:],
        targets[EXAMPLES:],
        DAMPING,
        decay=decay,
        batch_size=batch_size,
        residual=1e-13,
    )


def dense(problem: Problem, rows: slice = slice(None)) -> Dense:
    """The formulas' ingredients, with the Hessian of some of the examples."""
    params = {name: value.detach() for name, value in problem.network.named_parameters()}
    theta = torch.cat([value.flatten() for value in params.values()])
    sizes = [value.numel() for value in params.values()]

    def mean_loss(at: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        pieces = at.split(sizes)
        here = {name: piece.view_as(params[name]) for name, piece in zip(params, pieces, strict=True)}
        return cross_entropy(functional_call(problem.network, here, (inputs,)), targets)

    def one(at: Tensor, example: Tensor, target: Tensor) -> Tensor:
        return mean_loss(at, example.unsqueeze(0), target.unsqueeze(0))

    gradients = vmap(grad(one), in_dims=(None, 0, 0))
    return Dense(
        hessian(mean_loss)(theta, problem.inputs[rows], problem.targets[rows]),
        gradients(theta, problem.inputs, problem.targets),
        gradients(theta, problem.test_inputs, problem.test_targets),
        theta,
    )


def dense_ekfac_scores(problem: Problem) -> Float[Tensor, "t n"]:
    """g_t' (E + delta I)^-1 g_i from the definition of EK-FAC (George et al. 2018), gradients at the observed targets.

    Per layer with G_i = b_i a_i', a_i with a constant 1: Q_A and Q_B diagonalise (1/n) sum a_i a_i' and
    (1/n) sum b_i b_i', and E's eigenvalues are (1/n) sum (Q_B' G_i Q_A)^2.
    """
    parts, position, received = dense(problem), 0, problem.inputs
    total = torch.zeros(len(problem.test_targets), len(problem.targets), dtype=torch.float64)
    for module in problem.network:
        if not isinstance(module, nn.Linear):
            received = module(received).detach()
            continue
        outputs, width = module.weight.shape
        block = slice(position, position + outputs * (width + 1))
        position = block.stop
        examples, tests = (_weight_and_bias(rows[:, block], outputs) for rows in (parts.examples, parts.tests))
        sent, inputs = examples[:, :, -1], torch.cat([received, torch.ones_like(received[:, :1])], dim=1)
        input_basis = torch.linalg.eigh(inputs.T @ inputs / len(inputs))[1]
        output_basis = torch.linalg.eigh(sent.T @ sent / len(sent))[1]
        examples, tests = (output_basis.T @ gradients @ input_basis for gradients in (examples, tests))
        eigenvalues = examples.square().mean(dim=0) + problem.damping
        total += (tests / eigenvalues).flatten(1) @ examples.flatten(1).T
        received = module(received).detach()
    return total


def _weight_and_bias(rows: Float[Tensor, "B p"], outputs: int) -> Float[Tensor, "B O D"]:
    weight, bias = rows[:, :-outputs], rows[:, -outputs:]
    return torch.cat([weight.reshape(len(rows), outputs, -1), bias.unsqueeze(2)], dim=2)


def claims_about_ours() -> Iterator[Claim]:
    """This library's lines of the table of conventions."""
    problem = tiny_problem()
    positive = _positive(problem)
    raw, removal = _raw("ours:automatic", problem), adapter("ours:automatic")(problem).removal
    yield _claim("bayes-influence .values", "-g_t'(H+(l+d)I)^-1 g_i, (t, n)", raw, -positive)
    yield _claim("bayes-influence .removal", "+1/n of that", removal, positive / EXAMPLES)
    for name, small in _ekfac_problems():
        formula = "-g_t'(E+dI)^-1 g_i, (t, n)"
        yield _claim(
            f"bayes-influence {name}", formula, _raw("ours:ekfac_empirical", small), -dense_ekfac_scores(small)
        )


def claims_about_pydvl() -> Iterator[Claim]:
    """PyDVL's: damped Hessian, its "Gauss-Newton" matrix, batches of unequal size."""
    problem = tiny_problem()
    parts, both = dense(problem), DAMPING + DECAY
    for name in ("direct", "block_conjugate_gradients"):
        formula = "+g_t'(H+rI)^-1 g_i, (t, n), r = l+d"
        yield _claim(f"pyDVL {name}", formula, _raw(f"with_pydvl:{name}", problem), _positive(problem))
    fisher = parts.examples.T @ parts.examples / EXAMPLES
    got = _raw("with_pydvl:block_conjugate_gradients", replace(problem, curvature="empirical-fisher"))
    formula = "the empirical Fisher divided by t in H's place"
    yield _claim("pyDVL 'Gauss-Newton'", formula, got, parts.scores(fisher / TESTS, both))
    uneven = tiny_problem(batch_size=50)
    batches = [dense(uneven, rows).hessian for rows in (slice(0, 50), slice(50, 60))]
    mean = (batches[0] + batches[1]) / 2
    raw = _raw("with_pydvl:direct", uneven)
    yield _claim(
        "pyDVL direct, batches of 50 and 10", "exact H: examples count alike", raw, parts.scores(parts.hessian, both)
    )
    raw = _raw("with_pydvl:block_conjugate_gradients", uneven)
    yield _claim("pyDVL CG, batches of 50 and 10", "H a mean of batch means", raw, parts.scores(mean, both))


def claims_about_captum() -> Iterator[Claim]:
    """Captum's naive influence function."""
    problem = tiny_problem()
    formula = "g_t'(nH+rI)^-1 g_i, (t, n), r = n(l+d)"
    yield _claim("captum naive", formula, _raw("with_captum:full_rank", problem), _positive(problem) / EXAMPLES)


def claims_about_torch_influence() -> Iterator[Claim]:
    """torch-influence's, with the regulariser's gradient in every example's."""
    problem, both = tiny_problem(), DAMPING + DECAY
    parts = dense(problem)
    shifted = parts.scores(parts.hessian, both, parts.examples + DECAY * parts.theta)
    got = adapter("with_torch_influence:conjugate_gradients")(problem)
    formula = "+1/n g_t'(H+(l+d)I)^-1 (g_i + l theta), (t, n)"
    yield _claim("torch-influence CG", formula, got.raw, shifted / EXAMPLES)
    yield _claim("torch-influence CG", "minus the l theta term: removal", got.removal, _positive(problem) / EXAMPLES)


def claims_about_dattri() -> Iterator[Claim]:
    """Dattri's explicit inverse, over one cached batch and over two."""
    problem = tiny_problem()
    formula = "+g_t'(H+rI)^-1 g_i, (n, t), r = l+d"
    explicit = adapter("with_dattri:explicit")
    yield _claim("dattri explicit", formula, explicit(problem).raw, _positive(problem).T)
    halves = [dense(problem, rows) for rows in (slice(0, 30), slice(30, 60))]
    summed = sum(part.scores(part.hessian, DAMPING + DECAY) for part in halves)
    two = partial(explicit, cached_batch=30)(problem)
    yield _claim("dattri, two cached batches", "sum over batches of (H_batch+rI)^-1", two.raw, summed.T)


def claims_about_kronfluence() -> Iterator[Claim]:
    """Kronfluence's EK-FAC, of one layer and of two."""
    for name, small in _ekfac_problems():
        formula = "+g_t'(E+dI)^-1 g_i, (t, n)"
        got = _raw("with_kronfluence:empirical", small)
        yield _claim(f"kronfluence {name}", formula, got, dense_ekfac_scores(small))


CLAIMS = {
    "ours": claims_about_ours,
    "with_pydvl": claims_about_pydvl,
    "with_captum": claims_about_captum,
    "with_torch_influence": claims_about_torch_influence,
    "with_dattri": claims_about_dattri,
    "with_kronfluence": claims_about_kronfluence,
}
"""The lines of the table by the module of benchmarks/peers that they are about."""


def _raw(entry: str, problem: Problem) -> Tensor:
    return adapter(entry)(problem).raw


def _positive(problem: Problem) -> Float[Tensor, "t n"]:
    """g_t' (H + (lambda + delta) I)^-1 g_i."""
    parts = dense(problem)
    return parts.scores(parts.hessian, DAMPING + DECAY)


def _ekfac_problems() -> Iterator[tuple[str, Problem]]:
    for depth in (0, 1):
        yield f"EK-FAC, {depth + 1} layer{'s' * depth}, batches of 25", tiny_problem(depth, decay=0.0, batch_size=25)


def _claim(library: str, formula: str, got: Tensor, expected: Tensor) -> Claim:
    if got.shape != expected.shape:
        raise ValueError(f"{library} returned shape {tuple(got.shape)}, the claim has {tuple(expected.shape)}")
    return Claim(library, formula, float((got.double() - expected).norm() / expected.norm()))


def main() -> None:
    """Prints the table."""
    warnings.simplefilter("ignore")
    modules = present({name: name for name in CLAIMS})
    print("| library | returns | relative distance |\n|---|---|---|")
    for module in modules:
        for claim in CLAIMS[module]():
            print(f"| {claim.library} | `{claim.formula}` | {claim.distance:.1e} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
