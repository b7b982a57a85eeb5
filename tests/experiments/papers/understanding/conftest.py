import pytest

from bayes_influence.experiments.papers.understanding import paired_digits


@pytest.fixture
def pair(monkeypatch, patterns):
    """The first and the last of the patterns, where the studies look for a pair of digits."""
    monkeypatch.setattr(paired_digits, "PAIR", (0, 2))
    monkeypatch.setattr(paired_digits, "IMAGES_PER_PAIRED", 3)
    return patterns
