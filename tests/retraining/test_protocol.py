import io

import pytest

from bayes_influence.influence.influence import Influence
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.linear_response import LinearResponse
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.predicted import Predicted
from bayes_influence.retraining.proximal import Proximal, ProximalBregman
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.schedules import Schedule
from tests.fitted import softmax_regression

SHORT = Schedule(3, 0.01)


class Terminal(io.StringIO):
    """A screen, on which bars are drawn."""

    def isatty(self):
        return True


PROTOCOLS = {
    "minimum": lambda fits, train: Minimum(),
    "warm": lambda fits, train: Warm(SHORT),
    "warm in turns": lambda fits, train: Warm(SHORT, at_once=3),
    "from scratch": lambda fits, train: FromScratch(fits.scheme, softmax_regression, SHORT),
    "proximal": lambda fits, train: Proximal(0.1),
    "proximal Bregman": lambda fits, train: ProximalBregman(0.1),
    "linear response": lambda fits, train: LinearResponse(0.1),
    "predicted": lambda fits, train: Predicted(lambda objective: Influence(objective, train)),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_progress_is_shown_only_where_it_is_asked_for(regression, train, removed, monkeypatch, name):
    protocol, terminal = PROTOCOLS[name](regression, train), Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    protocol.refit(regression, train, removed)
    assert terminal.getvalue() == ""
    protocol.refit(regression, train, removed, progress=True)
    assert ("%" in terminal.getvalue()) == (name != "predicted")  # which has nothing to wait for
