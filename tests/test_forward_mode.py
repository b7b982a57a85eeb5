"""Forward mode under threads."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from torch.func import grad, vmap

import bayes_influence as bi
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.forward_mode import jvp


def test_a_directional_derivative_and_one_within_another():
    x, v = torch.tensor([0.3, -1.2]).double(), torch.tensor([2.0, 0.5]).double()
    value, slope = jvp(lambda at: at.sin().prod(), (x,), (v,))
    expected = v[0] * x[0].cos() * x[1].sin() + v[1] * x[0].sin() * x[1].cos()
    torch.testing.assert_close(value, x.sin().prod())
    torch.testing.assert_close(slope, expected)
    second = jvp(lambda at: jvp(lambda y: y.pow(3).sum(), (at,), (v,))[1], (x,), (v,))[1]
    torch.testing.assert_close(second, (6 * x * v.square()).sum())
    rows = vmap(lambda unit: jvp(grad(lambda y: y.pow(3).sum()), (x,), (unit,))[1])(torch.eye(2).double())
    torch.testing.assert_close(rows, torch.diag(6 * x))


def test_tensors_that_were_expanded_have_derivatives_too():
    """Within a transform torch writes tangents in the layout of their primals."""

    def slope(scale):
        held = scale.expand(3, 2)
        return jvp(lambda values: values.square().sum(), (held,), (torch.ones(3, 2).double(),))[1]

    scales = torch.tensor([[0.3, 2.0], [1.0, -1.0]]).double()
    torch.testing.assert_close(vmap(slope)(scales), 6 * scales.sum(1))
    (second,) = jvp(slope, (scales[0],), (torch.tensor([1.0, 0.0]).double(),))[1:]
    torch.testing.assert_close(second, torch.tensor(6.0).double())


def test_threads_get_the_matrices_that_they_get_alone():
    torch.manual_seed(0)
    x = torch.randn(40, 3, dtype=torch.float64)
    data = bi.Dataset(x, (x[:, 0] > 0).long(), torch.arange(40))
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    objective = bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.1))

    def matrix(kind):
        return kind(objective, data, cache_bytes=0).dense()

    kinds = [HessianOperator, GaussNewtonOperator] * 10
    alone = [matrix(kind) for kind in kinds[:2]]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(matrix, kinds))
    for index, one in enumerate(found):
        torch.testing.assert_close(one, alone[index % 2])
