import json
from dataclasses import dataclass, field

import pytest

from bayes_influence.experiments.store.settings import Settings


@dataclass(frozen=True)
class Part(Settings):
    """A part.

    Attributes:
        sizes: Of its layers, from the inputs to the outputs, which takes
            two lines to say.
    """

    sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Whole(Part):
    """A whole.

    Attributes:
        name: What it is called.
        part: What it holds.
        rate: How fast.
        share: Of the whole.

    Raises:
        ValueError: If the name is unknown: never described.
    """

    name: str = "first"
    part: Part = field(default_factory=Part)
    other: Part | None = None
    rate: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        self.check_known(name=("first", "second"))
        self.check_at_least(rate=1)
        self.check_positive(share="or there is none")


def test_settings_come_back_from_json():
    whole = Whole((3, 4), "second", Part((5,)), Part((6, 7)), 2.5)
    assert Whole.from_config(json.loads(json.dumps(whole.to_config()))) == whole
    assert Whole.from_config({"sizes": [2]}) == Whole((2,))
    assert Whole.from_config(Whole().to_config()) == Whole()


def test_a_configuration_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"Part has no setting 'colour'; it has sizes\. The configuration was written"):
        Part.from_config({"colour": "red"})
    with pytest.raises(ValueError, match="unknown name 'third'; known: first, second"):
        Whole.from_config({"name": "third"})


def test_values_are_checked_and_what_is_left_unsaid_passes():
    with pytest.raises(ValueError, match=r"rate must be at least 1, got 0\.5"):
        Whole(rate=0.5)
    for share in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"share must be positive, or there is none, got {share}"):
            Whole(share=share)
    assert Whole(rate=1, share=0.1).rate == 1
    assert Whole().rate is None


def test_every_field_is_described_by_the_class_that_has_it():
    assert Whole.descriptions() == {
        "sizes": "Of its layers, from the inputs to the outputs, which takes two lines to say.",
        "name": "What it is called.",
        "part": "What it holds.",
        "other": "",
        "rate": "How fast.",
        "share": "Of the whole.",
    }
