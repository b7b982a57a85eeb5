"""Estimates of a trace from few products."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator, as_operator
from bayes_influence.curvature.spectrum.density import Estimate
from bayes_influence.curvature.spectrum.lanczos import gaussian_vectors


def hutchinson(operator: LinearOperator | Float[Tensor, "P P"], products: int = 100, seed: int = 0) -> Estimate:
    """Tr A as the mean of z'Az over random signs z (Hutchinson 1990).

    Unbiased; the variance of one probe is 2 sum_{i != j} A_ij^2, so the error falls with 1 / sqrt(products).

    Raises:
        ValueError: If there are fewer than 2 products.
    """
    operator = as_operator(operator)
    _check_products(products, 2)
    probes = gaussian_vectors(operator, products, seed).sign()
    return _mean((probes * (operator @ probes)).sum(dim=0), 0.0, products)


def hutch_plus_plus(operator: LinearOperator | Float[Tensor, "P P"], products: int = 99, seed: int = 0) -> Estimate:
    """Tr A, exactly on a sketched range and by Hutchinson on the rest (Meyer, Musco, Musco, Woodruff 2021).

    A third of the products finds an orthonormal basis Q of A S for random S, a third takes tr(Q'AQ), and a third
    estimates the trace of (I - QQ')A(I - QQ'). Unbiased; the standard error is that of the last part given Q, and falls
    with 1 / products for a decaying spectrum.

    Raises:
        ValueError: If there are fewer than 6 products.
    """
    operator = as_operator(operator)
    _check_products(products, 6)
    third = products // 3
    if third >= operator.size:
        return Estimate(float(operator.trace()), 0.0, operator.size)
    signs = gaussian_vectors(operator, 2 * third, seed).sign()
    basis, _ = torch.linalg.qr(operator @ signs[:, :third])
    captured = float((basis * (operator @ basis)).sum())
    rest = signs[:, third:] - basis @ (basis.T @ signs[:, third:])
    return _mean((rest * (operator @ rest)).sum(dim=0), captured, 3 * third)


def xtrace(operator: LinearOperator | Float[Tensor, "P P"], products: int = 100, seed: int = 0) -> Estimate:
    """Tr A by XTrace (Epperly, Tropp, Webber 2024): every vector serves the sketch and the remainder, but not at once.

    With test vectors w_1 ... w_k, k = products / 2, and Q_i an orthonormal basis of {A w_j : j != i}, the estimate is
    the mean over i of tr(Q_i'AQ_i) + w_i'(I - Q_iQ_i')A(I - Q_iQ_i')w_i. Q_iQ_i' = Q(I - s_is_i')Q' for the basis Q of
    all A w_j = QR, where s_i is the i-th column of R^{-T}, normalised. Test vectors are taken uniform on the sphere
    *within* the complement of Q_i, which lowers the variance. Unbiased; the standard error is over i, whose terms are
    weakly dependent.

    Raises:
        ValueError: If there are fewer than 4 products.
    """
    operator = as_operator(operator)
    _check_products(products, 4)
    half = products // 2
    if half >= operator.size:
        return Estimate(float(operator.trace()), 0.0, operator.size)
    tests = gaussian_vectors(operator, half, seed)
    images = operator @ tests
    basis, triangle = torch.linalg.qr(images)
    basis_images = operator @ basis
    left_out = _left_out_directions(triangle)
    compressed = basis.T @ basis_images
    # tr(Q_i'AQ_i) = tr(Q'AQ) - s_i'(Q'AQ)s_i
    captured = compressed.trace() - (left_out * (compressed @ left_out)).sum(dim=0)
    inside = basis.T @ tests
    inside = inside - left_out * (left_out * inside).sum(dim=0)
    rest = tests - basis @ inside
    rest_images = images - basis_images @ inside
    dimension = operator.size - half + 1
    quotients = (rest * rest_images).sum(dim=0) / rest.square().sum(dim=0)
    return _mean(captured + dimension * quotients, 0.0, 2 * half)


def _left_out_directions(triangle: Tensor) -> Float[Tensor, "k k"]:
    """The s_i: within the range of Q, what is orthogonal to every A w_j but the i-th.

    A rank-deficient sketch has a triangle that is singular up to rounding; its diagonal is kept off 0, also where all
    of it is 0.
    """
    diagonal = triangle.diagonal()
    largest = diagonal.abs().max()
    floor = torch.finfo(triangle.dtype).eps * torch.where(largest > 0, largest, 1.0)
    safe = torch.where(diagonal.abs() < floor, floor, diagonal)
    triangle = triangle + torch.diag(safe - diagonal)
    identity = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    inverse = torch.linalg.solve_triangular(triangle, identity, upper=True).T
    return inverse / torch.linalg.vector_norm(inverse, dim=0)


def _check_products(products: int, least: int) -> None:
    if products < least:
        raise ValueError(f"this trace estimate needs at least {least} products, got {products}")


def _mean(terms: Tensor, offset: float, products: int) -> Estimate:
    terms = terms.to(torch.float64)
    return Estimate(offset + float(terms.mean()), float(terms.std() / len(terms) ** 0.5), products)
