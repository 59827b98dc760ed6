"""The sentences of an audit follow their rules, and say no more than the intervals do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cxr_training.measure.records import (
    Audit,
    NoFigures,
    Reading,
    ReadingFigures,
    Resampling,
    SourceFigures,
    SourceLeftOut,
    SourceNotLeftOut,
)
from cxr_training.measure.shortcuts import ABOVE, BELOW, NO_INTERVAL, UNCLEAR, verdict
from cxr_training.pages.audit_words import plain_words

Ci = tuple[float, float] | None


def figures(auroc: float | None, ci: Ci, difference: float | None = None, difference_ci: Ci = None) -> ReadingFigures:
    said = verdict(auroc, ci, 0.5, 20)
    return ReadingFigures(100, 50, 90, auroc, ci, said, difference, difference_ci, undefined_resamples=0)


def found(**changed: Any) -> Audit:
    """An audit in which nothing can be told, but for what is changed: readings, or other parts by their name."""
    dull = Reading({}, figures(0.5, (0.4, 0.6)))
    readings = dict.fromkeys(("pixels", "border", "model", "model_centre_blanked", "model_border_blanked"), dull)
    audit = Audit(
        split="test",
        arch="resnet10",
        pretrained="random",
        weights_sha256="w",
        data_sha256="d",
        trained_on_sha256="d",
        backbone_frozen=True,
        synthetic=False,
        bootstrap=Resampling("patient", 0.95, 100, 0),
        sources=("a", "b"),
        strengths={},
        readings=readings | {name: one for name, one in changed.items() if isinstance(one, Reading)},
        source_from_features=None,
        source_from_features_reason="no reason",
        leave_one_source_out=None,
        leave_one_source_out_reason="no reason",
    )
    return replace(audit, **{name: one for name, one in changed.items() if not isinstance(one, Reading)})


def sentence(audit: Audit, start: str) -> str:
    (one,) = [words for words in plain_words(audit) if words.startswith(start)]
    return one


def reading(overall: ReadingFigures, **groups: ReadingFigures) -> Reading:
    return Reading({f"source={name}": one for name, one in groups.items()}, overall)


BORDER = "From the border alone"


def test_a_border_that_is_good_over_all_films_and_within_no_source_says_the_source() -> None:
    border = reading(figures(0.93, (0.9, 0.95)), a=figures(0.55, (0.42, 0.66)), b=figures(None, None))
    said = sentence(found(border=border), BORDER)
    assert "AUROC 0.930 (0.900 to 0.950) over all films, better than chance" in said
    assert "Within one source: a 0.550 (0.420 to 0.660), which cannot be told from chance." in said
    assert said.endswith("says which source a film is from, not whether it shows PNEUMONIA.")
    assert "; b " not in said  # it has one class


def test_a_border_that_is_good_within_a_source_is_more_than_the_source() -> None:
    border = reading(figures(0.93, (0.9, 0.95)), a=figures(0.55, (0.42, 0.66)), b=figures(0.9, (0.8, 0.97)))
    said = sentence(found(border=border), BORDER)
    assert "within b something other than the source is at work" in said
    assert "cannot say which" in said
    assert "says which source a film is from" not in said


@pytest.mark.parametrize("within", [(0.42, 0.92), None])
def test_too_few_films_within_the_sources_settle_nothing(within: Ci) -> None:
    border = reading(figures(0.93, (0.9, 0.95)), a=figures(0.6, within))
    said = sentence(found(border=border), BORDER)
    assert said.endswith("these films cannot say.")


def test_a_border_at_chance_is_no_sign_of_anything() -> None:
    said = sentence(found(border=reading(figures(0.52, (0.45, 0.6)), a=figures(0.5, (0.4, 0.6)))), BORDER)
    assert "which cannot be told from chance" in said
    assert "So " not in said


def test_without_sources_a_good_border_may_be_no_more_than_the_source() -> None:
    border = reading(figures(0.93, (0.9, 0.95)))
    assert "may be no more than that" in sentence(found(border=border, sources=()), BORDER)
    assert sentence(found(border=border, sources=("a",)), BORDER).endswith("All films are from one source, a.")
    each = found(border=reading(figures(0.93, (0.9, 0.95)), a=figures(None, None), b=figures(None, None)))
    assert "No source has films of both classes" in sentence(each, BORDER)


@pytest.mark.parametrize(
    ("ci", "said"),
    [
        ((-0.06, -0.02), ": better, by 0.040 (0.020 to 0.060)."),
        ((0.02, 0.06), ": worse, by 0.040 (0.020 to 0.060)."),
        ((-0.06, 0.02), ": no difference can be told."),
        (None, " on the same films."),
    ],
)
def test_the_model_is_better_than_grey_values_where_the_interval_of_the_difference_says_so(ci: Ci, said: str) -> None:
    size = 0.04 if ci and ci[0] > 0 else -0.04
    pixels = reading(figures(0.9, (0.86, 0.94), size, ci))
    assert sentence(found(pixels=pixels), "From 1,024 grey values").endswith(said)


def test_a_model_that_works_without_a_centre_is_said_to_be_moved_by_the_border_and_no_more() -> None:
    start = "With all but the border"
    said = sentence(found(model_centre_blanked=reading(figures(0.8, (0.7, 0.9)))), start)
    assert "the border alone moves it the right way" in said
    assert "how much of that is at work on whole films this cannot say" in said
    assert "no proof that it leaves the border alone" in sentence(found(), start)
    turned = sentence(found(model_centre_blanked=reading(figures(0.2, (0.1, 0.3)))), start)
    assert "worse than chance" in turned


def test_a_loss_without_the_border_needs_an_interval_below_nothing() -> None:
    start = "With the border blanked"
    lost = reading(figures(0.8, (0.7, 0.9), -0.1, (-0.15, -0.05)))
    assert "-0.100 (-0.150 to -0.050) against whole films: it does worse" in sentence(
        found(model_border_blanked=lost), start
    )
    same = reading(figures(0.8, (0.7, 0.9), -0.1, (-0.25, 0.05)))
    assert "no loss can be told" in sentence(found(model_border_blanked=same), start)


def told(value: float, said: str) -> SourceFigures:
    return SourceFigures(("a", "b"), 1.0, 100, 90, value, (value - 0.05, value + 0.05), 0.5, said, 0)


@pytest.mark.parametrize(
    ("normal", "pneumonia", "warned"),
    [
        (told(0.9, ABOVE), told(0.9, ABOVE), True),
        (told(0.9, ABOVE), NoFigures("one source"), True),
        (told(0.9, ABOVE), told(0.5, UNCLEAR), False),
        (NoFigures("one source"), NoFigures("one source"), False),
    ],
)
def test_a_head_could_go_by_the_source_where_each_class_shows_it(
    normal: SourceFigures | NoFigures, pneumonia: SourceFigures | NoFigures, warned: bool
) -> None:
    parts = {"all": told(0.95, ABOVE), "NORMAL": normal, "PNEUMONIA": pneumonia}
    said = sentence(found(source_from_features=parts), "From the model's own features")
    assert "among all films with balanced accuracy 0.950 (0.900 to 1.000) where chance is 0.500" in said
    assert ("a head could go by it" in said) is warned


def left_out(difference: float, ci: Ci) -> SourceLeftOut:
    return SourceLeftOut(
        source="a",
        films=50,
        positive=20,
        patients=50,
        reason=None,
        trained_on=("b",),
        training_films_without=1200,
        training_films_with=3000,
        figure="auroc",
        without=0.9 + difference,
        without_ci=(0.5, 0.95),
        with_=0.9,
        with_ci=(0.85, 0.95),
        difference=difference,
        difference_ci=ci,
    )


@pytest.mark.parametrize(
    ("difference", "ci", "said"),
    [
        (-0.3, (-0.4, -0.2), "fewer training films without it may be part of this)."),
        (-0.1, (-0.3, 0.1), "which can be none."),
        (-0.1, None, "trained with it, on 3,000 films, to 0.900 (0.850 to 0.950)."),
    ],
)
def test_a_fall_on_a_source_that_was_left_out_needs_its_interval(difference: float, ci: Ci, said: str) -> None:
    rows = (left_out(difference, ci), SourceNotLeftOut("b", 10, 5, 10, "too few"))
    audit = found(leave_one_source_out=rows)
    assert sentence(audit, "Trained without a").endswith(said)
    assert not any("Trained without b" in words for words in plain_words(audit))
    assert any("still too good" in words for words in plain_words(replace(audit, backbone_frozen=False)))


def test_a_figure_without_an_interval_is_not_judged() -> None:
    audit = found(border=reading(replace(figures(0.9, None), verdict=NO_INTERVAL)))
    assert "AUROC 0.900 (no interval) over all films, without an interval to judge by." in sentence(audit, BORDER)
    low = found(source_alone=reading(replace(figures(0.2, (0.1, 0.3)), verdict=BELOW)))
    assert "worse than chance" in sentence(low, "Knowing only which source")


def test_the_last_word_is_that_nothing_is_proved() -> None:
    assert plain_words(found())[-1].endswith("none of them can show that nothing does.")
