"""A block's products and diagonals against its dense matrix."""

import pytest
import torch

from bayes_influence.curvature.operators.kronecker_block import KroneckerBlock, symmetric_product


@pytest.fixture
def block():
    generator = torch.Generator().manual_seed(0)
    bases = [torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q for n in (4, 3)]
    eigenvalues = torch.rand(3, 4, dtype=torch.float64, generator=generator)
    return KroneckerBlock("layer", torch.arange(12).view(3, 4), *bases, eigenvalues)


@pytest.fixture
def basis(block):
    """Q, entries of (O, D) row by row."""
    return torch.kron(block.output_basis, block.input_basis)


def test_products_are_those_of_the_dense_matrix(block, basis):
    columns = torch.randn(3, 4, 5, dtype=torch.float64)
    factors = torch.randn(3, 4, dtype=torch.float64)
    expected = basis @ torch.diag(factors.flatten()) @ basis.T @ columns.flatten(0, 1)
    torch.testing.assert_close(block.scaled(columns, factors).flatten(0, 1), expected)


def test_diagonals_in_the_basis_and_out_of_it(block, basis):
    entries = torch.randn(3, 4, dtype=torch.float64)
    inside = (basis.T @ torch.diag(entries.flatten()) @ basis).diagonal().view(3, 4)
    outside = (basis @ torch.diag(entries.flatten()) @ basis.T).diagonal().view(3, 4)
    torch.testing.assert_close(block.in_basis(entries), inside)
    torch.testing.assert_close(block.in_coordinates(entries), outside)


@pytest.mark.parametrize("width", [1, 5, 63, 64, 127, 129, 200])
def test_a_symmetric_product_is_the_product(width) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(30, width, generator=generator, dtype=torch.float64)
    right = torch.rand(30, 1, generator=generator, dtype=torch.float64) * left
    product = symmetric_product(left, right)
    torch.testing.assert_close(product, left.T @ right)
    assert torch.equal(product, product.T)
