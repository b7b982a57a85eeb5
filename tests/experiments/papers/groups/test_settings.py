import re

import pytest

from bayes_influence.experiments.papers.groups.settings import DigitGroups, SelectedGroups, SyntheticGroups


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SyntheticGroups, {"scale": "huge"}, "unknown scale 'huge'; known: quick, full"),
        (SyntheticGroups, {"groups": 2}, "groups must be at least 3, got 2"),
        (SyntheticGroups, {"train": 10}, "train must be at least 50, got 10"),
        (SyntheticGroups, {"decay": 0.0}, "decay must be positive, or refits have no minimum to reach, got 0.0"),
        (SelectedGroups, {"decay": -1.0}, "decay must be positive, or refits have no minimum to reach, got -1.0"),
        (DigitGroups, {"side": 5}, "side must divide 28, the pixels of an image's side, got 5; take 14 or 7"),
        (DigitGroups, {"side": 0}, "side must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(kind, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**settings)


def test_what_is_said_goes_before_the_scale():
    assert SyntheticGroups(scale="full", groups=7).size.groups == 7
    assert SyntheticGroups(scale="full", groups=7).size.train == 10_000
    sides = [one.size.side for one in (DigitGroups(), DigitGroups(scale="full"), DigitGroups(side=4))]
    assert sides == [7, 14, 4]


def test_a_folder_belongs_to_the_numbers_and_not_to_how_many_seeds_or_where_images_are():
    assert SyntheticGroups(repeats=3).configuration() == SyntheticGroups(repeats=5).configuration()
    assert SyntheticGroups(decay=0.1).configuration() != SyntheticGroups().configuration()
    assert DigitGroups(data_folder="a").configuration() == DigitGroups().configuration()
    assert DigitGroups(side=4).configuration() != DigitGroups().configuration()
