"""What each reading sees: the border without the centre, the centre without the border."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_training.measure.shortcut_readings import (
    COARSE,
    border_blanked,
    border_of,
    border_values,
    centre_blanked,
    coarse_values,
    squashed,
)
from tests.films import film

SIZES = [(64, 64), (72, 64), (67, 93), (68, 68), (100, 75), (512, 631), (1001, 777)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_nothing_of_the_centre_is_left_where_the_border_is_read(height: int, width: int) -> None:
    one, two = film(1, height, width), film(1, height, width).copy()
    two[~border_of(height, width)] = film(2, height, width)[~border_of(height, width)]
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(centre_blanked(one), centre_blanked(two))
    np.testing.assert_array_equal(border_values(squashed(one)[None]), border_values(squashed(two)[None]))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_nothing_of_the_border_is_left_where_it_is_blanked(height: int, width: int) -> None:
    one, two = film(1, height, width), film(1, height, width).copy()
    two[border_of(height, width)] = film(2, height, width)[border_of(height, width)]
    np.testing.assert_array_equal(border_blanked(one), border_blanked(two))


def test_what_stays_is_untouched_and_the_film_too() -> None:
    pixels, border = film(3, 80, 96), border_of(80, 96)
    before = pixels.copy()
    np.testing.assert_array_equal(centre_blanked(pixels)[border], pixels[border])
    np.testing.assert_array_equal(border_blanked(pixels)[~border], pixels[~border])
    np.testing.assert_array_equal(pixels, before)


def test_the_border_is_the_outer_eighth_on_each_side() -> None:
    border = border_of(80, 160)
    assert border[:10].all()
    assert border[-10:].all()
    assert border[:, :20].all()
    assert border[:, -20:].all()
    assert not border[10:70, 20:140].any()


def test_a_blank_has_the_median_grey_of_what_stays() -> None:
    pixels = np.full((64, 64), 200, dtype=np.uint8)
    pixels[border_of(64, 64)] = 30
    pixels[0, :5] = 255  # a marker does not move the median
    assert centre_blanked(pixels)[32, 32] == 30
    assert border_blanked(pixels)[0, 0] == 200


def test_coarse_values_are_means_of_the_cells_own_pixels() -> None:
    pixels = np.zeros((128, 128), dtype=np.uint8)
    pixels[4:6, 0:2] = 200  # half of the first row of one of the 64 x 64 cells, a quarter of a coarse cell's height
    values = coarse_values(squashed(pixels)[None]).reshape(COARSE, COARSE)
    assert values[1, 0] == 200 / 4
    assert np.count_nonzero(values) == 1
