"""The traced and rewritten step against vmap of the gradient, which it must equal."""

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.models.initialisation import initial_params
from bayes_influence.objectives.tilt import SOLVE_TILT, optimal_tilt
from bayes_influence.torch_internals import make_fx
from bayes_influence.training import tracing
from bayes_influence.training.schemes import SCHEMES
from bayes_influence.training.tracing import can_compile, trace_members


def _problem(iris, name, structure=None):
    scheme = SCHEMES[name].with_options(**({"structure": structure} if structure else {}))

    def make():
        hidden = [nn.Linear(6, 6), nn.SELU()] if structure else []
        return scheme.prepare(nn.Sequential(nn.Linear(4, 6), nn.SELU(), *hidden, nn.Linear(6, 3)).double())

    params = initial_params(make, range(3), torch.float64)
    weights = torch.rand(3, 149, generator=torch.Generator().manual_seed(0)).double()
    strengths = torch.tensor([0.0, 0.5, 1.0]).double()
    return scheme.objective(make(), 149), (params, iris.train.batch(), weights, strengths)


def check_equal_steps(step, objective, arguments):
    def value(params, batch, weights, strength):
        return objective.value(params, batch, weights, strength)

    gradients, values = vmap(grad_and_value(value), in_dims=(0, None, 0, 0))(*arguments)
    traced_gradients, traced_values = step(*arguments)
    assert torch.allclose(traced_values, values, rtol=1e-12, atol=1e-13)
    for name, gradient in gradients.items():
        assert torch.allclose(traced_gradients[name], gradient, rtol=1e-10, atol=1e-13), name


@pytest.mark.parametrize("scheme", ["weight-decay", "bnn", "bnn-evi"])
def test_the_rewritten_trace_computes_the_same(iris, scheme):
    objective, arguments = _problem(iris, scheme)
    check_equal_steps(trace_members(objective, *arguments), objective, arguments)


def test_the_trace_holds_for_other_numbers_than_it_was_made_with(iris):
    objective, arguments = _problem(iris, "bnn")
    step = trace_members(objective, *arguments)
    params, batch, weights, strengths = arguments
    moved = {name: value + 0.3 for name, value in params.items()}
    check_equal_steps(step, objective, (moved, batch, weights.flip(1), strengths.flip(0)))


@pytest.mark.parametrize("structure", ["calibrated", "covariance", "calibrated-covariance"])
def test_the_trace_follows_covariances_and_holds_factors(iris, structure):
    objective, arguments = _problem(iris, "bnn", structure)
    check_equal_steps(trace_members(objective, *arguments), objective, arguments)


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("scheme", "structure"), [("weight-decay", None), ("bnn", None), ("bnn", "covariance")])
def test_long_trainings_are_compiled_to_the_same_step(iris, scheme, structure, monkeypatch):
    monkeypatch.setattr(tracing, "COMPILE_FROM_STEPS", 10)
    objective, arguments = _problem(iris, scheme, structure)
    step = trace_members(objective, *arguments, steps=10)
    check_equal_steps(step, objective, arguments)


def _classes():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, 7, 4, generator=generator).double()
    return values, torch.randint(4, (3, 7, 1), generator=generator), torch.randn(3, 7, 1, generator=generator).double()


@pytest.mark.parametrize("dim", [2, -1])
def test_one_of_a_few_classes_is_taken_and_placed_by_comparing(dim):
    def function(values, index, source):
        return values.gather(dim, index), values.new_zeros(3, 7, 4).scatter_add(dim, index, source)

    arguments = _classes()
    rewritten = tracing._for_compiling(make_fx(function)(*arguments))[0]
    assert not {node.target for node in rewritten.graph.nodes} & set(tracing._ONE_OF_FEW)
    for got, expected in zip(rewritten(*arguments), function(*arguments), strict=True):
        assert torch.equal(got, expected)


def test_the_tilt_of_a_few_classes_goes_on_from_that_of_the_call_before(monkeypatch):
    def function(mean, variance):
        return vmap(optimal_tilt)(mean, variance), mean.sum()

    generator = torch.Generator().manual_seed(1)
    moments = torch.randn(2, 7, 4, generator=generator).double(), torch.rand(2, 7, 4, generator=generator).double()
    listed, starts = tracing._for_compiling(make_fx(function)(*moments))
    assert SOLVE_TILT not in {node.target for node in listed.graph.nodes}
    torch.testing.assert_close(starts, [torch.full((2, 7, 4), 0.25).double()])
    seen = []
    step = tracing._OfLeaves(lambda *given: seen.append(given[-1]) or listed(*moments, given[-1]), ("a",), starts)
    for _ in range(2):
        gradients, value = step({"a": moments[0]}, Batch(moments[0], moments[1]), *moments)
        torch.testing.assert_close((gradients["a"], value), function(*moments), atol=1e-14, rtol=0)
    assert torch.equal(seen[0], starts[0])
    torch.testing.assert_close(seen[1], function(*moments)[0], atol=1e-14, rtol=0)
    monkeypatch.setattr(tracing, "CLASSES_IN_LINE", 3)
    kept, starts = tracing._for_compiling(make_fx(function)(*moments))
    assert SOLVE_TILT in {node.target for node in kept.graph.nodes}
    assert not starts


def test_what_takes_several_or_one_of_many_or_adds_to_something_keeps_its_index(monkeypatch):
    values, index, source = _classes()

    def kept(function, *arguments):
        rewritten = tracing._for_compiling(make_fx(function)(*arguments))[0]
        assert {node.target for node in rewritten.graph.nodes} & set(tracing._ONE_OF_FEW)
        assert torch.equal(rewritten(*arguments), function(*arguments))

    kept(lambda v, i: v.gather(2, i), values, index.expand(3, 7, 2))
    kept(lambda v, i, s: v.scatter_add(2, i, s), values, index, source)
    kept(lambda v, i: v.gather(2, i), values, index[:, :5])
    monkeypatch.setattr(tracing, "FEW_CLASSES", 3)
    kept(lambda v, i: v.gather(2, i), values, index)


def test_a_class_beside_one_that_is_infinite_is_taken_as_it_is():
    values = torch.tensor([[torch.inf, 2.0, torch.nan], [-torch.inf, torch.nan, 1.0]])
    index = torch.tensor([[1], [0]])
    assert torch.equal(tracing._gather_one(values, 1, index), values.gather(1, index))


def test_softmaxes_of_large_numbers_do_not_overflow():
    values = torch.tensor([[1000.0, 999.0, -1000.0], [-3.0, 0.0, 2.0]], dtype=torch.float64)
    for dim in (0, 1):
        torch.testing.assert_close(tracing._softmax(values, dim, False), values.softmax(dim))
        torch.testing.assert_close(tracing._log_softmax(values, dim, False), values.log_softmax(dim))


def test_what_returns_its_argument_is_left_out(iris):
    """And views become reshapes, and softmaxes run along the classes."""
    objective, arguments = _problem(iris, "bnn")
    step = trace_members(objective, *arguments)
    nodes = list(step.run.operations.graph.nodes)
    assert not [node for node in nodes if tracing._is_no_op(node)]
    assert not {node.target for node in nodes} & set(tracing._EXAMPLES_LAST)
    assert step.largest == max(
        node.meta["val"].numel() for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)
    )


def test_no_ops_are_those_that_return_their_first_argument():
    def function(x):
        kept = [x.expand(2, 3), x.view(2, 3), x.permute(0, 1), x.pow(1), torch.ops.aten.mul.Scalar(x, 1)]
        other = [x.expand(4, 2, 3), x.view(6), x.permute(1, 0), x.pow(2), torch.ops.aten.mul.Scalar(x, 2), x.exp()]
        return [value + 1 for value in kept + other]

    graph = make_fx(function)(torch.ones(2, 3)).graph
    calls = [node for node in graph.nodes if node.op == "call_function" and "add" not in str(node.target)]
    assert [tracing._is_no_op(node) for node in calls] == [True] * 5 + [False] * 6
    assert not any(tracing._is_no_op(node) for node in graph.nodes if node.op != "call_function")


def test_a_short_training_is_not_compiled_and_a_long_one_where_it_can_be(iris, monkeypatch, caplog):
    objective, arguments = _problem(iris, "weight-decay")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(options) or function)
    monkeypatch.setattr(tracing, "COMPILE_FROM_STEPS", 10)
    for steps, able in ((9, True), (10, False), (10, True)):
        monkeypatch.setattr(tracing, "can_compile", lambda able=able: able)
        with caplog.at_level("INFO", tracing.__name__):
            trace_members(objective, *arguments, steps=steps)
    assert compiled == [{"dynamic": False}]
    assert caplog.text.count("no C++ compiler for torch.compile: 10 steps run as traced") == 1


def test_a_short_training_of_large_tensors_is_compiled(iris, monkeypatch):
    objective, arguments = _problem(iris, "weight-decay")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function) or function)
    monkeypatch.setattr(tracing, "can_compile", lambda: True)
    largest = trace_members(objective, *arguments, steps=4).largest
    monkeypatch.setattr(tracing, "COMPILE_FROM_WORK", 5 * largest)
    trace_members(objective, *arguments, steps=4)
    assert not compiled
    step = trace_members(objective, *arguments, steps=5)
    (made,) = compiled
    assert not {node.target for node in made.graph.nodes} & set(tracing._ONE_OF_FEW)
    check_equal_steps(step, objective, arguments)


def test_one_mode_keeps_the_shapes_of_all_results(iris):
    """Torch makes one per result otherwise, and looks up the stack each time: half of the time of a trace."""
    objective, arguments = _problem(iris, "bnn")
    nodes = trace_members(objective, *arguments).run.operations.graph.nodes
    modes = {id(node.meta["val"].fake_mode) for node in nodes if isinstance(node.meta.get("val"), torch.Tensor)}
    assert len(modes) == 1


@pytest.mark.parametrize("scheme", ["weight-decay", "bnn"])
def test_members_in_turns_have_the_same_gradients(iris, scheme, monkeypatch):
    """Where torch cannot batch a network."""
    monkeypatch.setattr(tracing, "first_way", lambda network, what, quick, patient: patient())
    objective, arguments = _problem(iris, scheme)
    check_equal_steps(trace_members(objective, *arguments), objective, arguments)
