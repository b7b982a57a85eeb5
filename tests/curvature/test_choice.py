import re
from dataclasses import dataclass

import pytest

from bayes_influence.curvature.choice import chosen


class Fruit:
    pass


@dataclass(frozen=True)
class Apple(Fruit):
    weight: int = 100


class Pear(Fruit):
    pass


def read(value, hint=""):
    return chosen(
        value, Fruit, {"apple": Apple}, what="fruit is one such as Apple()", function="(tree) -> it", hint=hint
    )


def test_an_object_its_class_and_its_name_are_the_same_choice():
    assert read(Apple(3)) == Apple(3)
    assert read(Apple) == read("apple") == Apple(100)
    assert isinstance(read(Pear), Pear)


def test_a_function_is_left_to_who_asks():
    assert read(len) is len


def test_an_unknown_name_is_refused_with_those_that_are_known_and_the_hint():
    expected = re.escape("unknown fruit 'plum'; known: apple, or a function (tree) -> it. A plum is a prune")
    with pytest.raises(ValueError, match=expected):
        read("plum", hint=". A plum is a prune")


def test_what_is_no_choice_at_all_is_refused():
    expected = re.escape("a fruit is one such as Apple(), a name of apple, or a function (tree) -> it, got int")
    with pytest.raises(TypeError, match=expected):
        read(3)
