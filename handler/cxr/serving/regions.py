"""The regions where a map speaks most for its target: from the grid of a reply to polygons in the film's own pixels.

A region is where the map, drawn out over the film as the overlay shows it, reaches a share of its highest value, half
of it unless another is given; but for the largest, one that holds less than a hundredth of all that the map says for
its target is left out. A map that is nowhere above zero has none.

Points count as in a DICOM report: (0, 0) is the corner of the first pixel and (0.5, 0.5) its centre, x before y (PS3.3
C.18.6.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from contourpy import FillType, contour_generator

Points = npt.NDArray[np.float64]

LEVEL: Final = 0.5  # of the map's highest value
LEVELS: Final = (0.05, 0.95)  # the lowest and the highest that can be asked for
_LEAST_SHARE: Final = 0.01
_STEPS: Final = 12  # samples from one cell of the grid to the next
_FRACTION: Final = 8  # of a pixel: what a float32 holds exactly, so that report and JSON have the same numbers


@dataclass(frozen=True, slots=True)
class Region:
    """One region.

    Parameters
    ----------
    points
        (N, 2) corners in order, the first not repeated.
    share
        Its share of all that the map says for its target, 0-1; what lies in its holes counts for nothing.
    """

    points: Points
    share: float

    def moved(self, points: Points) -> Region:
        """The same region of a film that is stored otherwise."""
        return Region(points, self.share)

    @property
    def box(self) -> dict[str, float]:
        """The smallest upright rectangle around it: ``x`` and ``y`` of its upper left corner, ``width``, ``height``."""
        (x, y), (right, bottom) = self.points.min(axis=0).tolist(), self.points.max(axis=0).tolist()
        return {"x": x, "y": y, "width": right - x, "height": bottom - y}


def find_regions(
    grid: Sequence[Sequence[float]] | npt.NDArray[Any], width: int, height: int, level: float = LEVEL
) -> list[Region]:
    """The regions of a map, the largest share first.

    Parameters
    ----------
    grid
        h rows of w values, of which those above zero speak for the target.
    width, height
        Pixels of the film as the map lies over it.
    level
        Share of the map's highest value that a region reaches.
    """
    cells = np.asarray(grid, dtype=np.float64)
    reached = level * float(cells.max())
    if reached <= 0.0:
        return []
    xs, ys = _places(cells.shape[1], width), _places(cells.shape[0], height)
    at_x, at_y = _samples(xs, width), _samples(ys, height)
    # Bilinear, and level beyond the outer values.
    by_row = np.stack([np.interp(at_x, xs, row) for row in cells])
    drawn = np.stack([np.interp(at_y, ys, column) for column in by_row.T], axis=1)
    contours: Any = contour_generator(at_x, at_y, drawn, fill_type=FillType.OuterOffset)
    evidence = np.clip(drawn, 0.0, None) * np.outer(np.gradient(at_y), np.gradient(at_x))  # samples stand unevenly
    # Off the edges of the film, which may be those of a region.
    x, y = np.meshgrid(np.clip(at_x, 1e-6, width - 1e-6), np.clip(at_y, 1e-6, height - 1e-6))
    regions = []
    for corners, offsets in zip(*contours.filled(reached, np.inf), strict=True):
        outline = corners[: offsets[1]]
        inside = (drawn >= reached) & _encloses(outline, x, y)
        points = _rounded(outline)
        if len(points) >= 3:
            regions.append(Region(points, round(float(evidence[inside].sum() / evidence.sum()), 6)))
    regions.sort(key=lambda region: -region.share)
    return [region for number, region in enumerate(regions) if number == 0 or region.share >= _LEAST_SHARE]


def _places(count: int, length: int) -> Points:
    """Places of a grid's values along one side of the film: the centres of their cells (`cxr.model.cam.CAM_CELLS`)."""
    return np.asarray((np.arange(count) + 0.5) * (length / count))


def _samples(places: Points, length: int) -> Points:
    """Places to sample the map at, from edge to edge of the film, those of the grid among them."""
    steps = np.linspace(0.0, 1.0, _STEPS, endpoint=False)
    ends = np.concatenate([[0.0], places, [float(length)]])
    between = ends[:-1, None] + np.diff(ends)[:, None] * steps
    return np.unique(np.append(between, float(length)))


def _encloses(outline: Points, x: Points, y: Points) -> npt.NDArray[np.bool_]:
    """Whether points lie within an outline: a ray from them to the right crosses it an odd number of times."""
    inside = np.zeros(x.shape, dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def _rounded(outline: Points) -> Points:
    """An outline in parts of a pixel, without points that repeat or that lie on a line between their neighbours."""
    points = np.rint(outline * _FRACTION) / _FRACTION
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(points[bends])
