"""The changes that a screen is trained on: pictures of the film's own size, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cxr.films.film import Pixels
from cxr_training.fit import screen_changes as changes

SIDE = 128
ONE = (changes.frontal, changes.half_chest, changes.lying, changes.on_its_head, changes.negative)
TWO = (changes.pair, changes.negative_of_pair)


def film(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)


@pytest.mark.parametrize("change", [*ONE, *TWO], ids=lambda change: change.__name__)
def test_a_change_gives_a_picture_of_the_same_size_the_same_for_the_same_seed(
    change: Callable[..., Pixels],
) -> None:
    films = [film(1), film(2)] if change in TWO else [film(1)]
    for seed in range(40):
        first, second = (change(*films, np.random.default_rng(seed)) for _ in range(2))
        assert (first.shape, first.dtype) == ((SIDE, SIDE), np.uint8)
        assert np.array_equal(first, second)


def test_an_equalised_film_has_as_many_pixels_of_each_grey() -> None:
    skewed = (np.arange(SIDE * SIDE) ** 3 / (SIDE * SIDE) ** 3 * 255).astype(np.uint8).reshape(SIDE, SIDE)
    quartiles = np.percentile(changes.equalised(skewed), (25, 50, 75))
    assert quartiles == pytest.approx((64, 128, 191), abs=12)


def test_a_change_leaves_the_film_itself_as_it_was() -> None:
    one, other = film(1), film(2)
    for seed in range(10):
        for change in ONE:
            change(one, np.random.default_rng(seed))
        for change in TWO:
            change(one, other, np.random.default_rng(seed))
    assert np.array_equal(one, film(1))
    assert np.array_equal(other, film(2))
