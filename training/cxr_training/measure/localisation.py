"""The map of PNEUMONIA minus NORMAL against boxes that readers drew.

Two figures, for films of PNEUMONIA that have a box:

- pointing: whether the map has its maximum in a box. No tolerance around the boxes is given; Zhang et al. allow 15
  pixels, which counts near misses as hits.
- energy: the share of the evidence for PNEUMONIA that lies in boxes (`cxr.predict.Prediction.evidence`): of what the
  map shows in red, where its zero is the decision's neutral point, else of the cells that would be PNEUMONIA alone.

Both are worked out for the map of every film on the boxes of every film: how a map does on boxes of other patients is
what it owes to chance and to knowing where lungs are, and only what it does better on its own film was seen there.

The map is the served one, bilinear between the centres of its cells (`cxr.model.cam.upsample`), laid out on 512x512
pixels with the boxes scaled to it: the network sees every film as a square too, and shares of the film stay the same.

References
----------
Zhang, Bargal, Lin, Brandt, Shen, Sclaroff (2018): Top-Down Neural Attention by Excitation Backprop. International
Journal of Computer Vision 126:1084-1102 (pointing game).
Wang et al. (2020): Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks. CVPR Workshops
(energy-based pointing game).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cxr.model.cam import Cam, upsample
from cxr.predict import Prediction
from cxr_training.data.boxes import BoxedFilm
from cxr_training.data.collections.candidates import Box
from cxr_training.data.records import Record
from cxr_training.measure.intervals import Bootstrap, percentiles, share_interval
from cxr_training.measure.metrics import Floats
from cxr_training.measure.records import BoxFigures, Localisation

SIDE: Final = 512  # of the square that maps and boxes are laid out on

Rectangles = Floats  # (R, 4): left, top, right, bottom on the square


@dataclass(frozen=True, slots=True)
class MapsOnBoxes:
    """How the maps do on the boxes, for N films of PNEUMONIA that have boxes.

    Parameters
    ----------
    pointing, energy
        (N, N), row i, column j: what the map of film j does on the boxes of film i. Pointing is 1 or 0; the energy of a
        map without evidence is 0.
    has_evidence
        (N,), whether any cell of the film's map is evidence for PNEUMONIA.
    mean_map_pointing, mean_map_energy
        (N,), what the mean of the N maps does on the boxes of each film; NaN where it holds no evidence.
    area
        (N,), share of each film in boxes.
    """

    films: tuple[BoxedFilm, ...]
    predictions: tuple[Prediction, ...]
    pointing: Floats
    energy: Floats
    has_evidence: npt.NDArray[np.bool_]
    mean_map_pointing: Floats
    mean_map_energy: Floats
    area: Floats


def maps_on_boxes(boxed: Iterable[BoxedFilm | None], predictions: Iterable[Prediction]) -> MapsOnBoxes | None:
    """How the maps do on the boxes; None where no film of PNEUMONIA has a box."""
    chosen = [
        (film, prediction)
        for film, prediction in zip(boxed, predictions, strict=True)
        if film is not None and film.record.is_positive
    ]
    if not chosen:
        return None
    films, answers = zip(*chosen, strict=True)
    grids = np.stack([prediction.evidence for prediction in answers])
    mean: Cam = grids.mean(axis=0, dtype=np.float64).astype(np.float32)
    rectangles = [disjoint(_on_square(film)) for film in films]
    hits = np.stack([cells_inside(mean.shape, own) for own in rectangles])
    energy = np.stack([energy_inside(grid, rectangles) for grid in grids], axis=1)
    return MapsOnBoxes(
        films,
        answers,
        pointing=np.stack([hits[:, *peak(grid)] for grid in grids], axis=1).astype(np.float64),
        energy=np.nan_to_num(energy),
        has_evidence=~np.isnan(energy[0]),
        mean_map_pointing=hits[:, *peak(mean)].astype(np.float64),
        mean_map_energy=energy_inside(mean, rectangles),
        area=np.array([_areas(own).sum() for own in rectangles]) / SIDE**2,
    )


def evidence_in_boxes(film: BoxedFilm, prediction: Prediction) -> float:
    """The share of the evidence for PNEUMONIA of a film's map that lies in the film's boxes; 0 without evidence."""
    return float(np.nan_to_num(energy_inside(prediction.evidence, [disjoint(_on_square(film))])[0]))


def _on_square(film: BoxedFilm) -> list[Box]:
    across, down = SIDE / film.width, SIDE / film.height
    return [Box(box.x * across, box.y * down, box.width * across, box.height * down) for box in film.boxes]


def disjoint(boxes: Sequence[Box]) -> Rectangles:
    """Rectangles that cover what the boxes cover, each place once however many boxes lie on it."""
    tops = sorted({edge for box in boxes for edge in (box.y, box.y + box.height)})
    found: list[tuple[float, float, float, float]] = []
    for top, bottom in pairwise(tops):
        end = -np.inf
        here = [box for box in boxes if box.y <= top and bottom <= box.y + box.height]
        for box in sorted(here, key=lambda box: box.x):
            left, right = max(box.x, end), box.x + box.width
            if right > left:
                found.append((left, top, right, bottom))
                end = right
    return np.array(found, dtype=np.float64).reshape(-1, 4)


def _areas(rectangles: Rectangles) -> Floats:
    left, top, right, bottom = rectangles.T
    return np.asarray((right - left) * (bottom - top))


def peak(grid: Cam) -> tuple[int, int]:
    """The cell, row and column, where the upsampled map has its maximum; of equal cells the first.

    A bilinear surface has its maximum on a cell. A constant added to the map does not move it.
    """
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    return int(row), int(column)


def places(cells: int, pixels: float = SIDE) -> Floats:
    """Where the centres of a row of cells lie on a row of pixels."""
    return (np.arange(cells) + 0.5) * pixels / cells


def cells_inside(shape: tuple[int, ...], rectangles: Rectangles) -> npt.NDArray[np.bool_]:
    """Which cells of a map of this shape lie in a rectangle, edges included: (h, w)."""
    y, x = (places(cells) for cells in shape)
    left, top, right, bottom = rectangles.T[:, :, None]
    down = (top <= y) & (y <= bottom)
    across = (left <= x) & (x <= right)
    return np.asarray((down[:, :, None] & across[:, None, :]).any(axis=0))


def energy_inside(local: Cam, films: Sequence[Rectangles]) -> Floats:
    """The share of the positive part of a map that lies in the rectangles of each film; NaN where nothing is positive.

    Pixels count by the part of them that lies inside.

    Parameters
    ----------
    local
        (h, w), `cxr.predict.Prediction.evidence`.
    films
        The rectangles of each film, as `disjoint` gives them.

    Returns
    -------
    (N,), 0-1.
    """
    evidence = np.maximum(upsample(local, SIDE, SIDE).astype(np.float64), 0.0)
    summed = np.zeros((SIDE + 1, SIDE + 1))  # of everything above and left of a corner of pixels
    summed[1:, 1:] = evidence.cumsum(axis=0).cumsum(axis=1)
    total = summed[-1, -1]
    if total <= 0.0:
        return np.full(len(films), np.nan)
    left, top, right, bottom = np.concatenate(films).T
    parts = _at(summed, bottom, right) - _at(summed, top, right) - _at(summed, bottom, left) + _at(summed, top, left)
    owner = np.repeat(np.arange(len(films)), [len(own) for own in films])
    return np.asarray(np.clip(np.bincount(owner, parts, minlength=len(films)) / total, 0.0, 1.0))


def _at(summed: Floats, y: Floats, x: Floats) -> Floats:
    """The sum up to places between the corners of pixels, each pixel being one value all over: bilinear in between."""
    row, column = (np.clip(place.astype(np.int64), 0, SIDE - 1) for place in (y, x))
    down, across = y - row, x - column
    upper = summed[row, column] * (1.0 - across) + summed[row, column + 1] * across
    lower = summed[row + 1, column] * (1.0 - across) + summed[row + 1, column + 1] * across
    return np.asarray(upper * (1.0 - down) + lower * down)


FIGURES: Final = (
    *("pointing", "pointing_swapped", "pointing_over_swapped", "pointing_mean_map"),
    *("energy", "energy_swapped", "energy_over_swapped", "energy_mean_map"),
    "area",
)
_SHARES_OF_FILMS: Final = ("pointing", "pointing_mean_map")


def localisation_figures(
    on_boxes: MapsOnBoxes | None,
    boxed: Iterable[BoxedFilm | None],
    records: Iterable[Record],
    boxes_from: str,
    bootstrap: Bootstrap,
) -> Localisation | None:
    """The content of ``localisation`` in `metrics.json`; None where no film of PNEUMONIA has a box."""
    if on_boxes is None:
        return None
    called = np.array([prediction.is_positive for prediction in on_boxes.predictions])
    return Localisation(
        boxes_from=boxes_from,
        positive=sum(record.is_positive for record in records),
        normal_with_boxes=sum(film is not None and not film.record.is_positive for film in boxed),
        all=_figures(on_boxes, np.ones_like(called), bootstrap),
        called=_figures(on_boxes, called, bootstrap) if called.any() else None,
    )


def _figures(on_boxes: MapsOnBoxes, rows: npt.NDArray[np.bool_], bootstrap: Bootstrap) -> BoxFigures:
    films = [film for film, chosen in zip(on_boxes.films, rows, strict=True) if chosen]
    patients = [film.record.patient_id for film in films]
    count = len(set(patients))
    points = _means(on_boxes, rows, patients, np.ones((1, len(films))))
    blocks = [_means(on_boxes, rows, patients, weights) for weights in bootstrap.weights(patients)]
    figures: dict[str, Any] = {}
    exact: list[str] = []
    for name in FIGURES:
        value = None if np.isnan(points[name][0]) else float(points[name][0])
        sample = np.concatenate([block[name] for block in blocks])
        if name in _SHARES_OF_FILMS:
            interval, is_exact = share_interval(value, sample, count)
            exact += [name] if is_exact else []
        else:
            interval = percentiles(sample, count)
        figures |= {name: value, f"{name}_ci": interval}
    return BoxFigures(
        films=len(films),
        patients=count,
        boxes=sum(len(film.boxes) for film in films),
        without_evidence=int((~on_boxes.has_evidence[rows]).sum()),
        **figures,
        exact_ci=tuple(exact),
    )


def _means(
    on_boxes: MapsOnBoxes, rows: npt.NDArray[np.bool_], patients: Sequence[str], weights: Floats
) -> dict[str, Floats]:
    """Each of `FIGURES` averaged over films with each row of weights, (b, N): (b,) each.

    The mean map is held fixed. Swapped maps are weighted as their films are: in a resample they come from the patients
    that were drawn.
    """
    owners = np.asarray(patients)
    others = (owners[:, None] != owners[None, :]).astype(np.float64)
    among = weights @ others
    found: dict[str, Floats] = {}
    for name, crossed, mean_map in (
        ("pointing", on_boxes.pointing, on_boxes.mean_map_pointing),
        ("energy", on_boxes.energy, on_boxes.mean_map_energy),
    ):
        here = crossed[np.ix_(rows, rows)]
        with np.errstate(invalid="ignore"):  # 0 / 0 where a single patient was drawn
            swapped = weights @ (here * others).T / among
        found[name] = _mean(weights, np.diagonal(here))
        found[f"{name}_swapped"] = _mean(weights, swapped)
        found[f"{name}_over_swapped"] = found[name] - found[f"{name}_swapped"]
        found[f"{name}_mean_map"] = _mean(weights, mean_map[rows])
    found["area"] = _mean(weights, on_boxes.area[rows])
    return found


def _mean(weights: Floats, values: Floats) -> Floats:
    """Weighted means: (b, N) and (N,) or (b, N) → (b,)."""
    used = np.where(weights > 0.0, values, 0.0)
    return np.asarray((weights * used).sum(axis=1) / weights.sum(axis=1))
