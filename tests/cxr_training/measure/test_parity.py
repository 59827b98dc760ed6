"""The comparison of two engines, against figures worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import device

from cxr.errors import ModelError
from cxr.predict import Prediction
from cxr_training.measure.parity import parity_of, processor_name

BIAS = np.zeros(2)


def prediction(logit: float, grid: list[float]) -> Prediction:
    """P(PNEUMONIA) is the logistic function of the logit at temperature 1; the contrast map is the grid."""
    maps = np.stack([np.zeros((2, 2)), np.reshape(grid, (2, 2))]).astype(np.float32)
    return Prediction(np.array([0.0, logit]), BIAS, maps, BIAS, "NORMAL", False)


ONE = [1.0, 2.0, 3.0, 4.0]
OTHER = [1.0, 3.0, 2.0, 4.0]


def test_flips_differences_and_correlations_are_counted() -> None:
    reference = [prediction(logit, ONE) for logit in (-1.0, 0.1, 0.5, 2.0)]
    other = [prediction(-1.0, ONE), prediction(-0.1, OTHER), prediction(0.5, ONE), prediction(2.0, ONE)]
    targets = np.array([0, 1, 0, 1])
    parity = parity_of(reference, other, targets, temperature=1.0, decisions=[0.5], processor="p")
    assert (parity.films, parity.flips, parity.processor) == (4, 1, "p")
    # of four pairs (one ill, one well) the reference ranks three rightly, and so does the other
    assert parity.auroc_difference == 0.0
    assert parity.probability_difference == pytest.approx(1 / (1 + np.exp(-0.1)) - 1 / (1 + np.exp(0.1)))
    assert parity.cam_correlation == pytest.approx(0.8)
    assert parity.cam_correlation_median == 1.0


def test_a_worse_ranking_is_a_negative_difference() -> None:
    reference = [prediction(logit, ONE) for logit in (-1.0, 1.0)]
    parity = parity_of(reference, reference[::-1], np.array([0, 1]), temperature=1.0, decisions=[0.5], processor="p")
    assert parity.auroc_difference == -1.0


def test_a_film_that_is_left_open_gets_the_second_engines_answer() -> None:
    reference = [prediction(logit, ONE) for logit in (-1.0, 0.1, 0.9, 2.0)]
    other = [prediction(-1.0, OTHER), prediction(-0.1, OTHER), prediction(0.8, OTHER), prediction(2.0, OTHER)]
    targets = np.array([0, 1, 0, 1])
    ones = {"temperature": 2.0, "decisions": [0.5], "processor": "p"}
    alone = parity_of(reference, other, targets, **ones)
    assert (alone.flips, alone.margin, alone.asked) == (1, 0.0, 0)
    second = [prediction(9.0, OTHER), prediction(0.2, ONE), prediction(0.9, ONE), prediction(9.0, ONE)]

    def again(places: Sequence[int]) -> list[Prediction]:
        return [second[place] for place in places]

    parity = parity_of(reference, other, targets, again=again, **ones)
    assert parity.margin == pytest.approx(0.1)  # 0.2 in logits, at temperature 2
    assert (parity.flips, parity.asked) == (0, 1)
    assert parity.cam_correlation_median == pytest.approx(0.8)
    both = parity_of(reference, other, targets, again=again, **{**ones, "decisions": [0.5, 1 / (1 + np.exp(-0.45))]})
    assert both.asked == 2
    # What the second says counts, were it the wrong label.
    second[1] = prediction(-0.2, ONE)
    assert parity_of(reference, other, targets, again=again, **ones).flips == 1
    # A film without a number is open, and says nothing of how far the two are apart.
    second[1], other[3] = prediction(0.1, ONE), prediction(float("nan"), OTHER)
    beyond = parity_of(reference, other, targets, again=again, **ones)
    assert (beyond.asked, beyond.margin) == (2, pytest.approx(0.1))
    assert beyond.probability_difference == pytest.approx(1 / (1 + np.exp(-4.5)) - 1 / (1 + np.exp(-1.0)))


def test_an_even_map_correlates_with_nothing_but_itself() -> None:
    even, uneven = prediction(0.0, [1.0] * 4), prediction(0.0, ONE)
    targets = np.array([0, 1])
    parity = parity_of([even, even], [even, uneven], targets, temperature=1.0, decisions=[0.5], processor="p")
    assert (parity.cam_correlation, parity.cam_correlation_median) == (0.0, 0.5)


def test_an_engine_that_overflows_is_refused_and_not_compared() -> None:
    good, bad = prediction(0.0, ONE), prediction(float("inf"), ONE)
    with pytest.raises(ModelError, match="1 of 2 films get numbers that are not finite"):
        parity_of([good, good], [good, bad], np.array([0, 1]), temperature=1.0, decisions=[0.5], processor="p")


def test_the_processor_has_a_name() -> None:
    assert processor_name(device("cpu"))
