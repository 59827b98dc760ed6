from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.path import Path as MplPath

from cxr.model.cam import upsample
from cxr.serving.regions import LEVEL, find_regions

WIDTH, HEIGHT = 260, 300
Mask = npt.NDArray[np.bool_]


def mask_of(points: npt.NDArray[np.float64], height: int, width: int) -> Mask:
    """The pixels whose centres lie within a polygon, by another program than ours."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = MplPath(points).contains_points(np.stack([x.ravel(), y.ravel()], axis=1))
    return np.asarray(inside.reshape(height, width))


def overlap(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / (first | second).sum())


def grid_of(seed: int) -> npt.NDArray[np.float64]:
    """A map with two warm places on a ground that is about zero."""
    grid = np.random.default_rng(seed).normal(size=(7, 7))
    grid[2:4, 1:3] += 6
    grid[5, 5] += 5
    return grid


@pytest.mark.parametrize("seed", range(5))
def test_regions_are_where_the_served_map_reaches_half_of_its_highest_value(seed: int) -> None:
    grid = grid_of(seed)
    served = upsample(grid.astype(np.float32), HEIGHT, WIDTH)
    regions = find_regions(grid.tolist(), WIDTH, HEIGHT)
    found = np.any([mask_of(region.points, HEIGHT, WIDTH) for region in regions], axis=0)
    assert overlap(found, served >= LEVEL * grid.max()) > 0.97


@pytest.mark.parametrize("seed", range(5))
def test_a_share_is_the_part_of_the_evidence_that_lies_within(seed: int) -> None:
    grid = grid_of(seed)
    evidence = np.clip(upsample(grid.astype(np.float32), HEIGHT, WIDTH), 0, None)
    regions = find_regions(grid.tolist(), WIDTH, HEIGHT)
    assert [region.share for region in regions] == sorted((region.share for region in regions), reverse=True)
    for region in regions:
        within = evidence[mask_of(region.points, HEIGHT, WIDTH)].sum() / evidence.sum()
        assert region.share == pytest.approx(within, abs=0.02)


def test_a_map_that_is_nowhere_above_zero_has_no_region() -> None:
    assert find_regions([[-1.0, -2.0], [0.0, -3.0]], WIDTH, HEIGHT) == []


def test_a_speck_is_no_region_beside_a_large_one() -> None:
    grid = np.zeros((7, 7))
    grid[1:6, 1:4], grid[3, 6] = 4.0, 2.02  # just over half of the highest value
    assert len(find_regions(grid.tolist(), WIDTH, HEIGHT)) == 1
    grid[3, 6] = 4.0
    assert len(find_regions(grid.tolist(), WIDTH, HEIGHT)) == 2


def test_a_map_that_is_the_same_all_over_is_one_region_of_the_whole_film() -> None:
    (region,) = find_regions([[2.0] * 7] * 7, WIDTH, HEIGHT)
    assert sorted(map(tuple, region.points.tolist())) == [(0, 0), (0, HEIGHT), (WIDTH, 0), (WIDTH, HEIGHT)]
    assert region.share == 1.0


def test_what_lies_in_a_hole_is_no_part_of_the_share() -> None:
    grid = np.full((7, 7), 4.0)
    grid[3, 3] = -4.0
    (region,) = find_regions(grid.tolist(), WIDTH, HEIGHT)
    assert 0.9 < region.share < 1.0
    assert mask_of(region.points, HEIGHT, WIDTH).all()  # the outline goes around


def test_a_number_is_one_that_a_report_holds_exactly() -> None:
    for region in find_regions(grid_of(0).tolist(), 2501, 3007):
        assert np.array_equal(region.points.astype(np.float32).astype(np.float64), region.points)


def test_a_higher_level_gives_less_of_the_film() -> None:
    areas = []
    for level in (0.25, 0.5, 0.75):
        regions = find_regions(grid_of(1), WIDTH, HEIGHT, level)
        areas.append(np.any([mask_of(one.points, HEIGHT, WIDTH) for one in regions], axis=0).sum())
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] > 0
