"""Regions of an answer on the film as it is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cxr.serving.regions import find_regions
from pneumoscan.dicom.answer import as_stored
from tests.cxr.serving.test_regions import HEIGHT, WIDTH, grid_of, mask_of, overlap


def as_scanned(upright: npt.NDArray[Any], directions: tuple[str, str]) -> npt.NDArray[Any]:
    """An upright picture as a film is stored whose rows and columns run elsewhere (PS3.3 C.7.6.1.1.1)."""
    turned = upright.T if directions[0] in "HF" else upright
    if directions[0] in "RH":
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned[::-1] if directions[1] in "RH" else turned)


@pytest.mark.parametrize(
    "directions", [("L", "F"), ("R", "F"), ("R", "H"), ("L", "H"), ("H", "L"), ("F", "R"), ("H", "R"), ("F", "L")]
)
def test_a_region_lies_on_the_stored_film_where_it_lies_on_the_upright_one(directions: tuple[str, str]) -> None:
    (region, *_) = find_regions(grid_of(3).tolist(), WIDTH, HEIGHT)
    expected = as_scanned(mask_of(region.points, HEIGHT, WIDTH), directions)
    found = mask_of(as_stored(region.points, directions, WIDTH, HEIGHT), *expected.shape)
    assert overlap(found, expected) > 0.97
