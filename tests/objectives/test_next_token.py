"""The loss of sequences against loops over tokens, torch's and Transformers' own formula, and what is refused."""

import pytest
import torch
from torch.nn import functional

import bayes_influence as bi
from bayes_influence.objectives.next_token import IGNORED, NextToken

LOGITS = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[0, 4, 2, 1], [3, IGNORED, 1, IGNORED], [1, 1, IGNORED, 0]])
SHARES = {"sum": [1, 1, 1], "mean": [1 / 3, 1, 1 / 2]}


def by_hand(shift):
    """-log p of every token that counts, one after the other."""
    terms = torch.zeros(3, 4, dtype=torch.float64)
    for row in range(3):
        for place in range(int(shift), 4):
            token = int(TOKENS[row, place])
            if token != IGNORED:
                logits = LOGITS[row, place - 1 if shift else place]
                terms[row, place] = logits.exp().sum().log() - logits[token]
    return terms


def test_terms_are_surprisals_of_the_next_token():
    terms = by_hand(shift=True)
    torch.testing.assert_close(NextToken().terms(LOGITS, TOKENS), terms)
    torch.testing.assert_close(NextToken()(LOGITS, TOKENS), terms.sum(1))
    assert terms[0].gt(0).tolist() == [False, True, True, True]
    assert NextToken().counted(TOKENS).sum(1).tolist() == [3, 1, 2]


def test_mean_is_over_the_tokens_that_count():
    shares = torch.tensor(SHARES["mean"], dtype=torch.float64)
    torch.testing.assert_close(NextToken("mean")(LOGITS, TOKENS), shares * by_hand(shift=True).sum(1))
    for row in range(3):  # the loss of a batch of one, as Transformers compute it
        expected = functional.cross_entropy(LOGITS[row, :-1], TOKENS[row, 1:], ignore_index=IGNORED)
        torch.testing.assert_close(NextToken("mean")(LOGITS, TOKENS)[row], expected)


def test_without_shift_targets_are_of_their_own_places():
    terms = by_hand(shift=False)
    torch.testing.assert_close(NextToken(shift=False).terms(LOGITS, TOKENS), terms)
    expected = functional.cross_entropy(LOGITS.mT, TOKENS, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(terms, expected)


def test_ignored_tokens_have_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    NextToken()(logits, TOKENS).sum().backward()
    assert logits.grad.abs().sum(2).gt(0).int().tolist() == [[1, 1, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0]]


@pytest.mark.parametrize("shift", [True, False])
def test_hits_are_the_share_of_tokens_that_are_predicted(shift):
    targets = torch.where(TOKENS == IGNORED, IGNORED, LOGITS.argmax(2).roll(int(shift), 1))
    likelihood = NextToken(shift=shift)
    torch.testing.assert_close(likelihood.hits(LOGITS, targets), torch.ones(3, dtype=torch.float64))
    targets[0, 1] = (targets[0, 1] + 1) % 5
    expected = 1 - 1 / int(likelihood.counted(targets)[0].sum())
    torch.testing.assert_close(likelihood.hits(LOGITS, targets)[0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.usefixtures("as_installed")
def test_what_does_not_fit_is_refused():
    check = NextToken().check
    with pytest.raises(ValueError, match=r"needs logits \(n, T, V\).* got outputs of shape \(n, 5\).* CrossEntropy"):
        check(LOGITS[:, 0], TOKENS)
    with pytest.raises(ValueError, match=r"targets \(3, 3\)"):
        check(LOGITS, TOKENS[:, :3])
    with pytest.raises(TypeError, match=r"tokens as targets, int64, got torch.float32"):
        check(LOGITS, TOKENS.float())
    wrong = TOKENS.clone()
    wrong[2, 3] = 5
    with pytest.raises(ValueError, match=r"train: the sequence with id 12 has tokens outside 0..4 \(1 of 3 do\)"):
        check(LOGITS, wrong, "train", torch.tensor([10, 11, 12]))
    empty = TOKENS.clone()
    empty[1, 1:] = IGNORED
    with pytest.raises(ValueError, match=r"the sequence with id 1 has no token that counts .* has the target -100"):
        check(LOGITS, empty)
    with pytest.raises(ValueError, match="'sum' or the 'mean' over its tokens, got 'none'"):
        NextToken("none")
    with pytest.raises(TypeError, match=r"NextToken takes the tensor of a deterministic network, got tuple"):
        check((LOGITS,), TOKENS)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("what", ["margin", "entropy", "variance", "mutual_information"])
def test_a_sequence_has_no_measurement_of_one_token(what):
    arguments = (LOGITS, TOKENS) if what == "margin" else (LOGITS,)
    with pytest.raises(TypeError, match=f"a sequence has no {what.replace('_', ' ')}.* TokenSurprisal"):
        getattr(NextToken(), what)(*arguments)


def test_the_surprisal_of_one_token():
    terms = by_hand(shift=True)
    for position in (1, 2, 3, -1, -2):
        torch.testing.assert_close(bi.TokenSurprisal(position)(LOGITS, TOKENS), terms[:, position])
