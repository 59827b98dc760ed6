"""What is counted and timed, and what no label can hold."""

from __future__ import annotations

import math

import pytest

from cxr.errors import CODES
from cxr.serving.metrics import OK, SERIES, BatchMetrics, outcome_of


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cxr_predictions_total", ("film-of-anna.png",)),
        ("cxr_predictions_total", ()),
        ("cxr_images_total", ("GIF",)),
        ("cxr_requests_total", ("ok", "MY_CODE")),
        ("cxr_requests_total", ("OK", "ok")),
        ("cxr_indeterminate_total", ("1.2.840",)),
        ("cxr_other_total", ()),
    ],
)
def test_a_label_holds_nothing_that_is_not_on_its_list(name: str, labels: tuple[str, ...]) -> None:
    measured = BatchMetrics()
    with pytest.raises(ValueError) as refused:
        measured.count(name, *labels)
    assert not measured.counts
    assert "anna" not in str(refused.value)
    with pytest.raises(ValueError):
        measured.observe(name, 1.0, *labels)


def test_every_error_code_is_the_senders_or_ours_by_its_status() -> None:
    assert outcome_of(OK) == "ok"
    assert {code for code in CODES if outcome_of(code) == "refused"} == {
        code for code, one in CODES.items() if 400 <= one.status < 500
    }
    assert {code for code in CODES if outcome_of(code) == "failed"} == {
        code for code, one in CODES.items() if one.status >= 500
    }


def test_before_the_first_request_every_counter_is_at_zero() -> None:
    zeros = BatchMetrics.zeros()
    assert set(zeros.counts.values()) == {0}
    assert not zeros.values
    counters = {name for name, series in SERIES.items() if series.kind == "counter"}
    assert {name for name, _ in zeros.counts} == counters
    for code in (OK, *CODES):
        assert ("cxr_requests_total", (outcome_of(code), code)) in zeros.counts


def test_a_request_with_some_of_its_films_answered_is_partial() -> None:
    measured = BatchMetrics()
    measured.count_request("TOO_SMALL", is_answered=True)
    measured.count_request("TOO_SMALL", is_answered=False)
    measured.count_request(OK, is_answered=True)
    measured.count_request(OK, is_answered=True)
    assert measured.counts == {
        ("cxr_requests_total", ("partial", "TOO_SMALL")): 1,
        ("cxr_requests_total", ("refused", "TOO_SMALL")): 1,
        ("cxr_requests_total", ("ok", OK)): 2,
    }


def test_what_fails_is_timed_too() -> None:
    measured = BatchMetrics()
    with pytest.raises(KeyError), measured.timed("cxr_decode_seconds"):
        raise KeyError
    ((key, seconds),) = measured.values
    assert key == ("cxr_decode_seconds", ())
    assert 0 <= seconds < 10


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_left_out(value: float) -> None:
    measured = BatchMetrics()
    measured.observe("cxr_probability_pneumonia", value)
    assert not measured.values
