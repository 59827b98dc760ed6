"""Films beside their heat maps, drawn for the pages: the most confident errors, and where the model looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cxr.films.film import Pixels
from cxr.model.classes import STANDARD, Scheme
from cxr.predict import Prediction
from cxr.serving.render import overlay
from cxr_training.data.boxes import BoxedFilm
from cxr_training.data.groups import COLUMNS
from cxr_training.data.records import Record
from cxr_training.measure.localisation import MapsOnBoxes, peak, places
from cxr_training.measure.metrics import Floats, Targets
from pneumoscan.files import write_whole

MOST_ERRORS: Final = 12  # of each kind
MOST_ON_BOXES: Final = 6  # of each kind
_ERRORS: Final = "errors"  # folders
_LOCALISATION: Final = "localisation"
_GAP: Final = 8  # pixels between film and map
_SIDE: Final = 448  # longest side of a shown film


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture on a page: its file, relative to the page, and its caption."""

    name: str
    alt: str
    caption: str
    film: str


@dataclass(frozen=True, slots=True)
class Errors:
    """The most confident errors, `most` of each kind at most."""

    missed: tuple[Shown, ...]
    alarmed: tuple[Shown, ...]
    most: int = MOST_ERRORS


@dataclass(frozen=True, slots=True)
class Extremes:
    """Films whose map has the most and the least of its evidence in their boxes."""

    highest: tuple[Shown, ...]
    lowest: tuple[Shown, ...]


def confident_errors(targets: Targets, probabilities: Floats, threshold: float) -> tuple[list[int], list[int]]:
    """Which films were missed and which called for nothing, the most confident first, at most 12 of each.

    Returns
    -------
    Places of false negatives, the lowest probability first, and of false positives, the highest first.
    """
    called = probabilities >= threshold
    order = np.argsort(probabilities, kind="stable")
    missed = [int(i) for i in order if targets[i] == 1 and not called[i]]
    alarmed = [int(i) for i in order[::-1] if targets[i] == 0 and called[i]]
    return missed[:MOST_ERRORS], alarmed[:MOST_ERRORS]


def draw_errors(
    out: Path,
    records: Sequence[Record],
    predictions: Sequence[Prediction],
    threshold: float,
    cam_scale: float,
    films: Mapping[str, Pixels],
) -> Errors:
    """Draw the most confident errors into ``out/errors``.

    Pictures of an earlier evaluation are taken away, so that none of another model's are left.

    Parameters
    ----------
    films
        At least those that are shown, by name.
    """
    _clear(out / _ERRORS, "false-*.jpg")
    targets = np.array([record.is_positive for record in records], dtype=np.int64)
    probabilities = np.array([prediction.probability for prediction in predictions])

    def shown(kind: str, chosen: Sequence[int]) -> tuple[Shown, ...]:
        pictures: list[Shown] = []
        for number, i in enumerate(chosen, 1):
            name = f"{_ERRORS}/{kind}-{number:02}.jpg"
            grid = predictions[i].explain("contrast").grid
            _save(side_by_side(films[records[i].name], grid, cam_scale, predictions[i].scheme), out / name)
            known = [f"{column} {records[i].extra[column]}" for column in COLUMNS if records[i].extra.get(column)]
            positive = predictions[i].scheme.words[0]
            text = f"{number}. P({positive}) {probabilities[i]:.3f}, mean of the map {grid.mean():+.2f}"
            alt = f"{kind} {number}: film and map"
            pictures.append(Shown(name, alt, ", ".join([text, *known]), records[i].name))
        return tuple(pictures)

    missed, alarmed = confident_errors(targets, probabilities, threshold)
    return Errors(shown("false-negative", missed), shown("false-positive", alarmed))


def extremes(energy: Floats) -> tuple[list[int], list[int]]:
    """Places of the highest, the highest first, and of the lowest, the lowest first; none is in both."""
    order = np.argsort(energy, kind="stable")[::-1].tolist()
    highest = order[: min(MOST_ON_BOXES, (len(order) + 1) // 2)]
    return highest, order[len(highest) :][::-1][:MOST_ON_BOXES]


def draw_localisation(
    out: Path, on_boxes: MapsOnBoxes | None, cam_scale: float, films: Mapping[str, Pixels]
) -> Extremes | None:
    """Draw films with their boxes into ``out/localisation``; None where no film has a box.

    Pictures of an earlier evaluation are taken away, as `draw_errors` does.

    Parameters
    ----------
    films
        At least those that are shown, by name.
    """
    for kind in ("highest", "lowest"):
        _clear(out / _LOCALISATION, f"{kind}-*.jpg")
    if on_boxes is None:
        return None
    energy = np.diagonal(on_boxes.energy)

    def shown(kind: str, chosen: Sequence[int]) -> tuple[Shown, ...]:
        pictures: list[Shown] = []
        for number, i in enumerate(chosen, 1):
            film, prediction = on_boxes.films[i], on_boxes.predictions[i]
            name = f"{_LOCALISATION}/{kind}-{number:02}.jpg"
            _save(with_boxes(film, films[film.record.name], prediction, cam_scale), out / name)
            evidence = f"energy {energy[i]:.3f}" if on_boxes.has_evidence[i] else "no evidence"
            text = f"{number}. {evidence}, maximum in {'a' if on_boxes.pointing[i, i] else 'no'} box"
            caption = f"{text}, P({prediction.scheme.words[0]}) {prediction.probability:.3f}"
            pictures.append(Shown(name, f"{kind} energy {number}: film and map", caption, film.record.name))
        return tuple(pictures)

    highest, lowest = extremes(energy)
    return Extremes(shown("highest", highest), shown("lowest", lowest))


def _clear(folder: Path, pattern: str) -> None:
    for old in folder.glob(pattern):
        old.unlink()


def _save(picture: npt.NDArray[np.uint8], path: Path) -> None:
    write_whole(path, lambda partial: Image.fromarray(picture).save(partial, format="JPEG", quality=88))


def _shown_size(pixels: Pixels) -> tuple[int, int]:
    """Height and width a film is shown with."""
    factor = _SIDE / max(pixels.shape)
    height, width = pixels.shape
    return max(1, round(height * factor)), max(1, round(width * factor))


def at_shown_size(pixels: Pixels) -> Pixels:
    """The film as large as it is shown."""
    height, width = _shown_size(pixels)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def side_by_side(
    pixels: Pixels, grid: npt.NDArray[np.float32], cam_scale: float, scheme: Scheme = STANDARD
) -> npt.NDArray[np.uint8]:
    """The film, and beside it the film under its contrast map with the colour bar: (H, W, 3)."""
    shown = at_shown_size(pixels)
    gap = np.full((len(shown), _GAP, 3), 255, dtype=np.uint8)
    under_map = overlay(shown, grid, "contrast", cam_scale, scheme)
    return np.concatenate([np.repeat(shown[..., None], 3, 2), gap, under_map], axis=1)


def with_boxes(film: BoxedFilm, pixels: Pixels, prediction: Prediction, cam_scale: float) -> npt.NDArray[np.uint8]:
    """Film and map side by side, (H, W, 3), with the boxes on both and a cross at the maximum of the map."""
    grid = prediction.explain("contrast").grid
    height, width = _shown_size(pixels)
    picture = Image.fromarray(side_by_side(pixels, grid, cam_scale, prediction.scheme))
    draw = ImageDraw.Draw(picture)
    across, down = width / film.width, height / film.height
    for start in (0, width + _GAP):
        for box in film.boxes:
            left, top = start + box.x * across, box.y * down
            right = max(left, start + (box.x + box.width) * across - 1)
            bottom = max(top, (box.y + box.height) * down - 1)
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0), width=4)
            draw.rectangle((left, top, right, bottom), outline=(255, 255, 255), width=2)
    row, column = peak(grid)
    x, y = width + _GAP + places(grid.shape[1], width)[column], places(grid.shape[0], height)[row]
    for colour, line in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        draw.line((x - 8, y, x + 8, y), fill=colour, width=line)
        draw.line((x, y - 8, x, y + 8), fill=colour, width=line)
    return np.asarray(picture)
