"""Which films an engine leaves open, by their log-odds."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.model.classes import STANDARD
from cxr.model.parity import left_open


def test_log_odds_are_those_of_the_calibrated_probability() -> None:
    odds = STANDARD.log_odds(np.array([[0.25, 1.25], [3.0, -1.0]]), 2.0)
    np.testing.assert_allclose(odds, [0.5, -2.0])


@pytest.mark.parametrize(
    ("decisions", "margin", "near"),
    [
        ([0.5], 0.5, [False, False, True, True, False]),
        ([0.5, 1 / (1 + np.exp(2.0))], 0.5, [False, True, True, True, False]),
        ([0.5], 0.0, [False] * 5),
        ([0.0, 1.0], 5.0, [False] * 5),  # nothing is ever as near as that to certainty
    ],
)
def test_open_is_what_lies_within_the_margin_of_any_decision(
    decisions: list[float], margin: float, near: list[bool]
) -> None:
    odds = np.array([-3.0, -2.25, -0.5, 0.25, 0.75])
    assert left_open(odds, decisions, margin).tolist() == near


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_what_is_no_number_leaves_its_film_open(margin: float) -> None:
    odds = np.array([np.nan, 3.0, np.inf, -np.inf])
    assert left_open(odds, [0.5], margin).tolist() == [True, False, True, True]
