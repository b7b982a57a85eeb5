"""Influence in Transformers that are not written for it, against loops over examples and tokens.

The networks are those of `transformers`, built from a configuration, and small ones of our own where it is missing.
"""

import copy
import importlib.util
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.func import functional_call

import bayes_influence as bi
from bayes_influence.curvature.operators.ekfac import EKFAC, EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.influence.scoring import ScoreBlocks
from bayes_influence.objectives.next_token import NextToken
from tests.tiny_transformers import LENGTH, VOCABULARY, TinyGPT, TinyViT

DAMPING = 0.5
MISSING = importlib.util.find_spec("transformers") is None
needs_package = pytest.mark.skipif(MISSING, reason="needs the extra [transformers]")


def gpt_2(**options):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=4, n_layer=1, n_head=2, n_inner=6, initializer_range=0.4,
        bos_token_id=0, eos_token_id=0, **options,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def vit(**options):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=4, patch_size=2, num_channels=1, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=6, num_labels=3, initializer_range=0.4, **options,
    )  # fmt: skip
    return ViTForImageClassification(config)


@dataclass
class Case:
    """A network, some data, its loss, and its outputs for one batch as a user's loop has them."""

    build: object
    likelihood: object
    images: bool = False
    masked: bool = True

    def data(self, n=6, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        if self.images:
            pictures = torch.randn(n, 1, 4, 4, generator=generator).to(dtype)
            return bi.Dataset(bi.Arguments(pixel_values=pictures), torch.arange(n) % 3, torch.arange(n) + 10)
        tokens = torch.randint(VOCABULARY, (n, LENGTH), generator=generator)
        targets, mask = tokens.clone(), torch.ones_like(tokens)
        mask[1::2, 3:] = 0
        targets[1::2, 3:] = -100
        inputs = bi.Arguments(input_ids=tokens, attention_mask=mask if self.masked else None)
        return bi.Dataset(inputs, targets, torch.arange(n) + 10)

    def network(self):
        torch.manual_seed(3)
        return self.build().double().train()

    def objective(self, parameters="layers"):
        return bi.Objective(self.network(), self.likelihood, bi.WeightDecay(0.1), parameters=parameters)


CASES = {
    "own GPT": Case(TinyGPT, NextToken()),
    "own GPT, mean, no mask": Case(lambda: TinyGPT(nn.Linear), NextToken("mean"), masked=False),
    "own GPT, tied": Case(lambda: TinyGPT(tied=True), NextToken()),
    "own ViT": Case(TinyViT, bi.CrossEntropy(), images=True),
}
PACKAGED = {
    "GPT-2, tied": Case(gpt_2, NextToken()),
    "GPT-2": Case(lambda: gpt_2(tie_word_embeddings=False), NextToken("mean")),
    "GPT-2, no mask": Case(lambda: gpt_2(tie_word_embeddings=False), NextToken(), masked=False),
    "GPT-2, eager": Case(lambda: gpt_2(attn_implementation="eager", tie_word_embeddings=False), NextToken()),
    "ViT": Case(vit, bi.CrossEntropy(), images=True),
}
ALL = [*CASES, *(pytest.param(name, marks=needs_package) for name in PACKAGED)]


@pytest.fixture(params=ALL)
def case(request):
    return {**CASES, **PACKAGED}[request.param]


def one_loss(case, network, params, example):
    """A loss as it is written by hand, of one example: every token that counts, one after the other."""
    inputs = {name: value[None] for name, value in example.inputs.kwargs.items()}
    logits = functional_call(network, params, (), inputs).logits[0]
    if case.images:
        return -logits.log_softmax(-1)[example.targets]
    terms = [
        -logits[place - 1].log_softmax(-1)[example.targets[place]]
        for place in range(1, LENGTH)
        if example.targets[place] >= 0
    ]
    total = sum(terms)
    return total / len(terms) if case.likelihood.reduction == "mean" else total


def examples(data):
    batch = data.batch()
    for row in range(len(data)):
        inputs = bi.Arguments(**{name: value[row] for name, value in batch.inputs.kwargs.items()})
        yield bi.Batch(inputs, batch.targets[row])


def gradients_by_hand(case, names, data, network=None):
    """(n, P), by a loop and autograd, in a copy of the network in evaluation mode."""
    network = copy.deepcopy(network or case.network()).eval()
    params = dict(network.named_parameters())
    rows = []
    for example in examples(data):
        loss = one_loss(case, network, params, example)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [params[name] for name in names])]))
    return torch.stack(rows)


@pytest.mark.parametrize("parameters", ["layers", "all"])
def test_ekfac_scores_are_those_of_explicit_gradients(case, parameters):
    objective, train, test = case.objective(parameters), case.data(), case.data(2, seed=1)
    curvature = EKFAC(fisher="empirical", allow_fallback=parameters == "all")
    influence = bi.Influence(objective, train, curvature=curvature, damping=DAMPING)
    scores = influence.on_loss(test)
    mine, theirs = (gradients_by_hand(case, objective.names, data) for data in (train, test))
    matrix = EKFACOperator(objective, train, fisher="empirical", allow_fallback=parameters == "all").dense()
    matrix += DAMPING * torch.eye(len(matrix)).double()
    expected = theirs @ torch.linalg.solve(matrix, mine.T) / len(train)
    torch.testing.assert_close(scores.removal, expected, rtol=1e-7, atol=1e-12)
    constant = (DAMPING + 0.1) * len(matrix)
    torch.testing.assert_close(matrix.trace() - constant, mine.square().sum() / len(train))


def test_second_derivatives_are_those_of_double_backward(case):
    objective, data = case.objective("layers"), case.data(3)
    network = copy.deepcopy(case.network()).eval()
    params = dict(network.named_parameters())
    chosen = [params[name] for name in objective.names]
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(sum(value.numel() for value in chosen), generator=generator).double()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        value = sum(one_loss(case, network, params, example) for example in examples(data)) / 3
        slopes = torch.autograd.grad(value, chosen, create_graph=True)
        along = sum((g * v).sum() for g, v in zip(slopes, objective.layout.unflatten(vector).values(), strict=True))
        expected = torch.cat([h.flatten() for h in torch.autograd.grad(along, chosen)]) + 0.1 * vector
    torch.testing.assert_close(HessianOperator(objective, data) @ vector, expected, rtol=1e-7, atol=1e-9)


def test_gauss_newton_is_the_fisher_of_every_target(case):
    """v'Gv against sum_y p(y) (v'grad log p(y))^2, token by token, by a numerical directional derivative of logits."""
    objective, data = case.objective("layers"), case.data(3)
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(objective.layout.total, generator=generator).double()
    network = copy.deepcopy(case.network()).eval()

    def logits(step):
        moved = objective.layout.unflatten(objective.layout.flatten(objective.params) + step * vector)
        state = {**objective.params, **moved}
        found = functional_call(network, state, (), data.inputs.kwargs).logits
        return found if found.ndim == 3 else found.unsqueeze(1)

    with torch.no_grad():
        slope, p = (logits(1e-6) - logits(-1e-6)) / 2e-6, logits(0.0).softmax(-1)
        variances = (p * slope.square()).sum(-1) - (p * slope).sum(-1).square()
        if case.images:
            weights = torch.ones(3, 1).double()
        else:
            counted = torch.nn.functional.pad((data.targets[:, 1:] >= 0).double(), (0, 1))
            weights = counted / counted.sum(1, keepdim=True) if case.likelihood.reduction == "mean" else counted
        expected = (weights * variances).sum() / 3 + 0.1 * vector.square().sum()
    found = vector @ (GaussNewtonOperator(objective, data) @ vector)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    if objective.layout.total < 300 and not any("wte" in name or "tokens" in name for name in objective.names):
        blocks = EKFACOperator(objective, data)
        torch.testing.assert_close(blocks.trace(), GaussNewtonOperator(objective, data).trace(), rtol=1e-8, atol=1e-9)


def test_layers_are_scored_by_outer_products(case):
    scored = ScoreBlocks(bi.Influence(case.objective("layers"), case.data(), curvature="ekfac", damping=1.0).problem)
    assert scored.scoring == "outer-products"


@pytest.mark.parametrize("name", ["own GPT, tied", pytest.param("GPT-2, tied", marks=needs_package)])
def test_tied_embeddings_are_right_or_refused(name):
    """A tied weight has gradients of both its uses; EK-FAC takes it apart for neither."""
    case = {**CASES, **PACKAGED}[name]
    objective = case.objective("all")
    (tied,) = [name for name in objective.names if "tokens" in name or "wte" in name]
    with pytest.raises(ValueError, match=f"'{tied}' belongs to Embedding; select other parameters, such as"):
        EKFACOperator(objective, case.data())
    assert bi.Objective(case.network(), NextToken(), parameters="last-layer").names == (tied,)
    influence = bi.Influence(case.objective([tied]), case.data(), curvature="ggn", damping=DAMPING)
    assert not influence.problem.reduction.is_head
    torch.testing.assert_close(
        influence.problem.gradients(influence.problem.data), gradients_by_hand(case, [tied], case.data())
    )


def test_scores_say_what_they_are_taken_in(case):
    options = {"curvature": EKFAC(fisher="empirical", allow_fallback=True), "damping": DAMPING}
    whole = bi.Influence(case.objective("all"), case.data(), **options).on_loss(case.data(1))
    count = sum(value.numel() for value in case.network().parameters())
    assert whole.parameters == f"all {count} parameters"
    objective = case.objective("layers")
    scores = bi.Influence(objective, case.data(), **options).on_loss(case.data(1))
    assert scores.parameters.startswith(f"{objective.layout.total} of {count} parameters: ")
    left = [name for name in objective.params if name not in objective.names]
    shorter = "without " + ", ".join(left) if len(left) < len(objective.names) else ", ".join(objective.names)
    assert scores.parameters.endswith(f": {shorter}")
    assert f", in {objective.layout.total} of {count} parameters: " in repr(scores)


@pytest.mark.parametrize("parameters", ["layers", "last-layer"])
@pytest.mark.parametrize("name", ["own GPT", "own GPT, mean, no mask", pytest.param("GPT-2", marks=needs_package)])
def test_tokens_have_their_terms_of_a_sequence(name, parameters):
    """Every token's removal against retraining's first order by hand, sign and scale; they add up to the sequence's."""
    case = {**CASES, **PACKAGED}[name]
    objective, train, test = case.objective(parameters), case.data(), case.data(2, seed=1)
    influence = bi.Influence(objective, train, curvature="ggn", damping=DAMPING)
    ids = torch.tensor([13, 10])
    tokens = influence.of_tokens(ids, test)
    assert tokens.shape == (2, 2, LENGTH)
    removal = influence.on_loss(test).removal[:, train.positions(ids)]
    torch.testing.assert_close(tokens.sum(2), removal, rtol=1e-8, atol=1e-12)
    assert (tokens[:, 0, [0, 3, 4]] == 0).all()  # the first token, and two that do not count
    assert (tokens[:, 1, 1:] != 0).all()
    names = influence.problem.reduced.names
    solved = influence.response.solve(gradients_by_hand(case, names, test).T).value
    kept = train.at([10])
    counted = int((kept.targets[0, 1:] >= 0).sum())
    for place in (1, 4):
        alone = torch.full_like(kept.targets, -100)
        alone[0, place] = kept.targets[0, place]
        single = bi.Dataset(kept.inputs, alone, kept.ids)
        share = counted if case.likelihood.reduction == "mean" else 1
        expected = gradients_by_hand(case, names, single)[0] @ solved / share / len(train)
        torch.testing.assert_close(tokens[:, 1, place], expected, rtol=1e-7, atol=1e-12)


def test_measuring_one_token():
    case = CASES["own GPT"]
    influence = bi.Influence(case.objective(), case.data(), curvature="ggn", damping=DAMPING)
    test = case.data(2, seed=1)
    scores = influence.on_measurement(bi.TokenSurprisal(2), test)
    alone = test.targets.clone()
    alone[:, [1, 3, 4]] = -100
    expected = influence.on_loss(bi.Dataset(test.inputs, alone, test.ids))
    torch.testing.assert_close(scores.values, expected.values)
    assert scores.measurement == "TokenSurprisal"


def test_tokens_of_another_loss_are_refused():
    case = CASES["own ViT"]
    influence = bi.Influence(case.objective("last-layer"), case.data(), damping=DAMPING)
    with pytest.raises(TypeError, match=r"needs a loss that is a sum over them, .* 'CrossEntropy' has none"):
        influence.of_tokens([10], case.data(1))


@pytest.mark.usefixtures("as_installed")
def test_positions_of_a_token():
    with pytest.raises(ValueError, match="nothing predicts the first token of a sequence; positions begin with 1"):
        bi.TokenSurprisal(0)
    with pytest.raises(ValueError, match="a sequence of 5 tokens has none at position -5 that is predicted"):
        bi.TokenSurprisal(-5)(torch.zeros(1, 5, 3), torch.zeros(1, 5, dtype=torch.int64))


@pytest.mark.parametrize("name", ["own GPT", pytest.param("GPT-2, tied", marks=needs_package)])
def test_a_trained_model_and_its_loss_are_taken_as_they_are(name):
    case = {**CASES, **PACKAGED}[name]
    options = {"parameters": "layers", "curvature": "ekfac", "damping": DAMPING}
    influence = bi.Influence.of(case.network(), NextToken(), case.data(), weight_decay=0.1, **options)
    expected = bi.Influence(case.objective(), case.data(), curvature="ekfac", damping=DAMPING)
    test = case.data(2, seed=1)
    torch.testing.assert_close(influence.on_loss(test).values, expected.on_loss(test).values)
    assert influence.of_tokens([10], test).shape == (2, 1, LENGTH)
