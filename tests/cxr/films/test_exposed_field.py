"""The exposed field: frames, sheets and windows are taken off, and a film without one is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cxr.films.exposed_field import Field, cropped, exposed_field
from cxr.films.film import Pixels

SIDE = 128


def film(width: int = 80, height: int = 90) -> Pixels:
    """Greys from 60 to 200 that are even nowhere."""
    noise = np.random.default_rng(4).integers(60, 200, (height, width))
    return noise.astype(np.uint8)


def on_sheet(grey: int, at: tuple[int, int], one: Pixels) -> Pixels:
    sheet = np.full((SIDE, SIDE), grey, dtype=np.uint8)
    sheet[at[1] : at[1] + one.shape[0], at[0] : at[0] + one.shape[1]] = one
    return sheet


def edges(field: Field) -> tuple[float, float, float, float]:
    return field.left, field.top, field.right, field.bottom


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_film_on_a_sheet_of_any_grey_is_found_to_the_pixel(grey: int) -> None:
    field = exposed_field(on_sheet(grey, (30, 20), film()))
    assert edges(field) == (31, 21, 109, 109)  # one pixel inside each edge
    assert field.tilt == 0


def test_a_film_without_a_frame_is_left_as_it_is() -> None:
    assert exposed_field(film(SIDE, SIDE)) == Field(0, 0, SIDE, SIDE)


def test_an_even_picture_has_no_field_and_is_left_as_it_is() -> None:
    assert exposed_field(np.full((SIDE, SIDE), 255, np.uint8)) == Field(0, 0, SIDE, SIDE)


def test_a_frame_on_one_side_leaves_the_other_edges_alone() -> None:
    assert edges(exposed_field(on_sheet(255, (0, 0), film(SIDE, 100)))) == (0, 0, SIDE, 99)


def test_letters_in_a_frame_are_no_film() -> None:
    sheet = on_sheet(0, (30, 20), film())
    sheet[6:9, 4:24:2] = 255
    sheet[116:119, 90:120:3] = 255
    assert edges(exposed_field(sheet)) == (31, 21, 109, 109)


def test_frames_in_frames_are_taken_off() -> None:
    """A viewer's window: a bar above, a column at the left, a black room around the film."""
    window = on_sheet(0, (40, 20), film())
    window[:12], window[:, :16] = 230, 60
    left, top, right, bottom = edges(exposed_field(window))
    assert (left, top, right, bottom) == (41, 21, 119, 109)


@pytest.mark.parametrize("tilt", [-17, -6, 5, 12])
@pytest.mark.parametrize("grey", [0, 255])
def test_a_tilted_film_is_found_with_its_tilt_and_set_upright(tilt: int, grey: int) -> None:
    one = Image.fromarray(film(60, 70))
    mask = Image.new("L", one.size, 255).rotate(tilt, expand=True)
    sheet = Image.new("L", (SIDE, SIDE), grey)
    sheet.paste(one.rotate(tilt, expand=True), (25, 18), mask)
    field = exposed_field(np.asarray(sheet))
    assert field.tilt == pytest.approx(tilt, abs=1)
    assert (field.right - field.left, field.bottom - field.top) == pytest.approx((58, 68), abs=2.5)
    upright = cropped(np.asarray(sheet), field, 64)
    assert np.mean(upright == grey) < 0.02


def test_the_outline_of_a_body_is_no_tilted_rectangle() -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    body = ((x - 64) / 50) ** 2 + ((y - 80) / 75) ** 2 < 1
    assert exposed_field(np.where(body, film(SIDE, SIDE), 0).astype(np.uint8)).tilt == 0


def test_a_speck_in_a_sheet_is_no_field() -> None:
    assert exposed_field(on_sheet(0, (60, 60), film(12, 12))) == Field(0, 0, SIDE, SIDE)


def test_the_field_of_the_negative_is_the_same() -> None:
    sheet = on_sheet(255, (10, 30), film())
    assert exposed_field(255 - sheet) == exposed_field(sheet)
