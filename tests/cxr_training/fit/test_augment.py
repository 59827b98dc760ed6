"""Augmentation changes a film and nothing that its label depends on."""

from __future__ import annotations

import numpy as np

from cxr_training.fit.settings import Augmentation
from tests.films import film


def test_without_rotation_and_flip_nothing_changes() -> None:
    pixels = film()
    np.testing.assert_array_equal(Augmentation(max_degrees=0).apply(pixels, np.random.default_rng(0)), pixels)


def test_a_film_keeps_its_size_and_brings_in_black() -> None:
    white = np.full((100, 80), 255, np.uint8)
    turned = Augmentation(max_degrees=20).apply(white, np.random.default_rng(0))
    assert turned.shape == white.shape
    assert turned[50, 40] == 255
    assert turned.min() == 0


def test_the_angle_stays_within_its_bounds() -> None:
    """A bright column, turned by at most 20 degrees, moves by at most half the height times tan 20° at the top."""
    pixels = np.zeros((201, 201), np.uint8)
    pixels[:, 99:102] = 255
    rng = np.random.default_rng(0)
    tops = [int(Augmentation().apply(pixels, rng)[:10].max(axis=0).argmax()) - 100 for _ in range(60)]
    assert max(map(abs, tops)) <= 100 * np.tan(np.deg2rad(20)) + 3
    assert min(tops) < -20 < 20 < max(tops)


def test_the_heart_stays_on_its_side_unless_flipping_is_asked_for() -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, 48:] = 255
    rng = np.random.default_rng(0)
    still = [Augmentation(max_degrees=0).apply(pixels, rng)[:, 60].max() for _ in range(20)]
    flipped = [Augmentation(max_degrees=0, flip=True).apply(pixels, rng)[:, 60].max() for _ in range(40)]
    assert set(still) == {255}
    assert set(flipped) == {0, 255}


def test_what_is_cut_off_is_at_most_the_share_and_a_film_and_its_mask_lose_the_same() -> None:
    ramp = np.tile(np.linspace(0, 250, 200).astype(np.uint8), (160, 1))
    cut = Augmentation(max_degrees=0, max_crop=0.15)
    widths = []
    for seed in range(40):
        changed = cut.apply(ramp, np.random.default_rng(seed)).astype(float)
        assert changed.shape == ramp.shape
        widths.append((changed[80, -1] - changed[80, 0]) / 250)
        small = cut.apply(ramp[::2, ::2], np.random.default_rng(seed)).astype(float)
        np.testing.assert_allclose(changed[80, 20:180:2], small[40, 10:90], atol=4)
    assert 0.84 <= min(widths) < 0.89
    assert max(widths) > 0.97
