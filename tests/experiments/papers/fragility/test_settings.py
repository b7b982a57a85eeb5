import pytest

from bayes_influence.experiments.papers.fragility.ablation import AblationStudy
from bayes_influence.experiments.papers.fragility.choices import MODES
from bayes_influence.experiments.papers.fragility.curves import CurveStudy
from bayes_influence.experiments.papers.fragility.refit_length import LengthStudy
from bayes_influence.experiments.papers.fragility.settings import SCALES, SIZES, FragilityStudy
from bayes_influence.training.schemes import DEFAULT_SCHEMES


def test_the_grid_is_the_paper_s():
    assert len(SIZES) == 14
    assert {depth for depth, width in SIZES if width == 5} == set(range(1, 9))
    assert {width for depth, width in SIZES if depth == 1} == {5, 8, 14, 20, 30, 40, 50}
    full = SCALES["full"]
    assert (full.repeats, full.epochs, full.refit_epochs, full.sizes) == (50, 60000, 7500, SIZES)


def test_what_is_said_goes_before_the_scale_and_the_mode():
    networks = FragilityStudy(scale="full", epochs=30, mode="as-published").networks()
    assert (networks.repeats, networks.epochs, networks.refit_epochs, networks.removals) == (50, 30, 7500, 25)
    assert FragilityStudy().networks().removals == 40
    assert FragilityStudy(removals=7).networks().removals == 7


def test_a_folder_belongs_to_numbers_and_mode_not_to_how_they_were_said():
    assert FragilityStudy(scale="full", repeats=10, epochs=4000, refit_epochs=1000).configuration() == (
        FragilityStudy(scale="medium").configuration()
    )
    published = FragilityStudy(mode="as-published", removals=40).configuration()
    assert {key for key, value in FragilityStudy().configuration().items() if published[key] != value} == {"mode"}
    assert published["resolved_schemes"]["weight-decay"]["weight_decay"] == 0.005


def test_networks_can_be_chosen_and_added_to_a_folder():
    some = FragilityStudy(only=("1x5", "4x5"))
    assert some.sizes == ((1, 5), (4, 5))
    assert some.configuration() == FragilityStudy().configuration()


def test_default_schemes_can_be_chosen_and_added_to_a_folder_and_others_belong_to_it():
    some = FragilityStudy(schemes=("weight-decay+swa", "bnn")).configuration()
    assert some == FragilityStudy().configuration()
    assert "schemes" not in some
    other = FragilityStudy(schemes=("bnn", "swag")).configuration()
    assert list(other["resolved_schemes"]) == [*DEFAULT_SCHEMES, "swag"]
    assert other != some


@pytest.mark.parametrize("study", [LengthStudy, CurveStudy])
def test_a_folder_of_cells_with_all_schemes_belongs_to_those_that_were_asked_for(study):
    assert study(schemes=("none",)).configuration()["schemes"] == ("none",)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("study", [CurveStudy, AblationStudy])
def test_where_networks_are_trained_as_choices_say_there_are_the_published_schemes(study, mode):
    assert study(mode=mode, schemes=("swa", "bnn")).schemes == ("swa", "bnn")
    with pytest.raises(ValueError, match=r"here there are the schemes none, .*, bnn, got bnn-evi, swag"):
        study(mode=mode, schemes=("weight-decay", "bnn-evi", "swag"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "published"}, "unknown mode 'published'; known: corrected, as-published"),
        ({"scale": "huge"}, "unknown scale 'huge'; known: quick, medium, full"),
        ({"only": ("5",)}, "a network is named by depth x width, 1x5 say, got '5'"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"removals": 400}, "removals must lie in 3..149"),
        ({"mode": "as-published", "schemes": ("swag",)}, "as published there are the schemes none, .* got swag"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FragilityStudy(**options)
