from dataclasses import fields

import pytest

from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED, Choices, choices_of


def test_as_published_differs_from_what_is_right_in_every_choice():
    names = tuple(one.name for one in fields(Choices))
    assert AS_PUBLISHED.published == names
    assert CORRECTED.published == ()
    assert AS_PUBLISHED.points == 25
    assert CORRECTED.points == 40


def test_every_choice_says_what_it_is():
    assert all(Choices.descriptions().values())
    assert all("ublished" in text or "code takes" in text for text in Choices.descriptions().values())


def test_a_choice_is_put_right_alone_or_with_others():
    alone = AS_PUBLISHED.correcting("control")
    assert set(AS_PUBLISHED.published) - set(alone.published) == {"control"}
    assert AS_PUBLISHED.correcting(*AS_PUBLISHED.published) == CORRECTED


def test_modes_are_names_of_choices():
    assert choices_of("corrected") == CORRECTED
    assert choices_of("as-published") == AS_PUBLISHED
    with pytest.raises(ValueError, match="unknown mode 'published'; known: corrected, as-published"):
        choices_of("published")


def test_what_is_no_choice_is_refused():
    with pytest.raises(ValueError, match="unknown choice 'bias'; known: points, signed"):
        AS_PUBLISHED.correcting("bias")
    with pytest.raises(ValueError, match="points must be at least 3, got 2"):
        Choices(points=2)
