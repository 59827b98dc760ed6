"""Colours mean the same on every film, and the film stays the film."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cxr.serving.render import MAX_SIDE, blend, colours, display_film, evidence_map, heat_map, overlay, png
from tests.films import film


def test_without_evidence_the_overlay_shows_the_film_itself_at_its_own_aspect() -> None:
    pixels = film(height=300, width=200)
    picture = overlay(pixels, np.zeros((7, 7), np.float32), "PNEUMONIA", 2.0)
    for channel in range(3):
        np.testing.assert_array_equal(picture[:, :200, channel], pixels)
    assert picture.shape == (300, 200 + 96, 3)


def test_a_large_film_is_shown_smaller_at_its_own_aspect() -> None:
    assert display_film(film(height=3000, width=2000)).shape == (MAX_SIDE, round(MAX_SIDE * 2 / 3))


def test_the_same_logits_have_the_same_colour_on_every_film() -> None:
    weak, strong = np.full((7, 7), 0.5, np.float32), np.full((7, 7), 0.5, np.float32)
    strong[3, 3] = 9.0  # a film's own maximum must not rescale the rest
    one = overlay(film(), weak, "contrast", 4.0)
    two = overlay(film(), strong, "contrast", 4.0)
    np.testing.assert_array_equal(one[0], two[0])


def test_pneumonia_is_hot_and_normal_cold() -> None:
    grid = np.full((2, 2), 3.0, np.float32)
    hot = overlay(np.full((80, 80), 128, np.uint8), grid, "PNEUMONIA", 4.0)[40, 40].astype(int)
    cold = overlay(np.full((80, 80), 128, np.uint8), grid, "NORMAL", 4.0)[40, 40].astype(int)
    assert hot[0] > hot[2] + 50
    assert cold[2] > cold[0] + 50


def test_evidence_is_clipped_at_the_scale_and_a_class_map_has_half_of_it() -> None:
    grid = np.array([[-9.0, 1.0], [2.0, 9.0]], np.float32)
    np.testing.assert_allclose(evidence_map(grid, "contrast", 4.0, 2, 2), [[-1, 0.25], [0.5, 1]])
    np.testing.assert_allclose(evidence_map(grid, "PNEUMONIA", 4.0, 2, 2), [[-1, 0.5], [1, 1]])
    np.testing.assert_allclose(evidence_map(grid, "NORMAL", 4.0, 2, 2), [[1, -0.5], [-1, -1]])


def test_the_grey_heat_map_is_neutral_at_zero() -> None:
    values = np.array([[-1.0, 0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(heat_map(values), [[1, 128, 255]])


def test_stronger_evidence_covers_more_of_the_film() -> None:
    black = np.zeros((1, 5), np.uint8)
    red = blend(black, np.array([[0, 0.25, 0.5, 0.75, 1.0]], np.float32))[0, :, 0].astype(int)
    assert (np.diff(red) > 0).all()


def test_the_colour_bar_carries_the_scale_of_its_map() -> None:
    pixels, grid = film(height=400, width=300), np.zeros((7, 7), np.float32)
    bars = [overlay(pixels, grid, target, scale)[:, 300:] for target, scale in (("contrast", 3.0), ("contrast", 5.0))]
    assert (bars[0] != bars[1]).any()
    assert np.abs(bars[0][200, 8:22].astype(int) - 128).max() < 8  # no evidence in the middle
    assert bars[0][30, 15, 0] > bars[0][30, 15, 2] + 50  # hot at the top


def test_colours_run_from_blue_to_red() -> None:
    first, middle, last = colours(np.array([-1.0, 0.0, 1.0], np.float32)).astype(int)
    assert first[2] == 255
    assert last[0] == 255
    assert middle.max() - middle.min() == 0


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_png_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(picture)))), picture)
