import torch
from torch.func import functionalize, grad, jvp, vmap

from bayes_influence.moments.transforms import plain_formulas_needed

X = torch.ones(3)


def asked_inside(transform):
    """What the question is answered inside a transformed function."""
    answers = []

    def function(x):
        answers.append(plain_formulas_needed())
        return x.sum()

    transform(function)
    return answers[-1]


def test_derivatives_of_our_own_serve_under_one_transform_of_each_kind():
    assert not plain_formulas_needed()
    assert not asked_inside(lambda f: grad(f)(X))
    assert not asked_inside(lambda f: vmap(f)(torch.ones(2, 3)))
    assert not asked_inside(lambda f: jvp(grad(f), (X,), (X,)))


def test_plain_formulas_are_needed_in_a_jvp_inside_another_and_in_a_trace():
    assert asked_inside(lambda f: jvp(lambda x: jvp(f, (x,), (X,))[1], (X,), (X,)))
    assert asked_inside(lambda f: functionalize(f)(X))


def test_plain_formulas_are_needed_where_torch_compiles():
    def function(x):
        return x + 1 if plain_formulas_needed() else x - 1

    assert torch.equal(torch.compile(function, backend="eager", fullgraph=True)(X), X + 1)
