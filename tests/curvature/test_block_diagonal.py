import pytest
import torch

from bayes_influence.curvature.operators.block_diagonal import BlockDiagonalOperator, module_blocks
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.objectives.derivatives import dense_hessian


def test_blocks_of_modules(make_objective) -> None:
    assert module_blocks(make_objective()) == (("0.weight", "0.bias"), ("2.weight", "2.bias"))


def test_blocks_of_the_callers_choice(make_objective, classification) -> None:
    """Blocks that are not contiguous in the flat vector."""
    objective = make_objective()
    blocks = [["2.bias", "0.weight"], ["0.bias", "2.weight"]]
    operator = BlockDiagonalOperator(GaussNewtonOperator, objective, classification, blocks)
    owner = torch.tensor([0] * 20 + [1] * 5 + [1] * 15 + [0] * 3)
    full = GaussNewtonOperator(objective, classification).dense()
    torch.testing.assert_close(operator.dense(), full * (owner[:, None] == owner[None, :]))


def test_one_block_is_the_whole_matrix(make_objective, classification) -> None:
    from bayes_influence.curvature.operators.hessian import HessianOperator

    objective = make_objective()
    operator = BlockDiagonalOperator(HessianOperator, objective, classification, [objective.names])
    torch.testing.assert_close(operator.dense(), dense_hessian(objective, classification.batch()))


@pytest.mark.parametrize("blocks", [[["0.weight"]], [["0.weight", "0.bias", "2.weight", "2.bias", "0.bias"]]])
def test_every_parameter_is_in_exactly_one_block(make_objective, classification, blocks) -> None:
    with pytest.raises(ValueError, match="must name every selected parameter"):
        BlockDiagonalOperator(GaussNewtonOperator, make_objective(), classification, blocks)
