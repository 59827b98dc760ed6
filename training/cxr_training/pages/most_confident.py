"""The most confident errors of a model, film and map side by side: what a radiologist asks to see first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.films.film import Pixels
from cxr.predict import Prediction
from cxr.serving.render import overlay
from cxr_training.data.groups import COLUMNS
from cxr_training.data.records import Record
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.pages.page import Block, Code, Heading, Picture, Pictures, text
from pneumoscan.files import write_whole

MOST: Final = 12  # of each kind
FOLDER: Final = "errors"
GAP: Final = 8  # pixels between film and map
_SIDE: Final = 448  # longest side of a shown film


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
    return missed[:MOST], alarmed[:MOST]


def shown_size(pixels: Pixels) -> tuple[int, int]:
    """Height and width a film is shown with."""
    factor = _SIDE / max(pixels.shape)
    height, width = pixels.shape
    return max(1, round(height * factor)), max(1, round(width * factor))


def at_shown_size(pixels: Pixels) -> Pixels:
    """The film as large as it is shown."""
    height, width = shown_size(pixels)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def side_by_side(pixels: Pixels, grid: npt.NDArray[np.float32], cam_scale: float) -> npt.NDArray[np.uint8]:
    """The film, and beside it the film under its map of PNEUMONIA minus NORMAL with the colour bar: (H, W, 3)."""
    shown = at_shown_size(pixels)
    gap = np.full((len(shown), GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([np.repeat(shown[..., None], 3, 2), gap, overlay(shown, grid, "contrast", cam_scale)], axis=1)


def errors_page(
    out: Path,
    records: Sequence[Record],
    predictions: Sequence[Prediction],
    threshold: float,
    cam_scale: float,
    films: Mapping[str, Pixels],
) -> list[Block]:
    """Draw the errors into ``out/errors`` and give the page that shows them, without a title.

    Pictures of an earlier evaluation are taken away, so that none of another model's are left.

    Parameters
    ----------
    films
        At least those that are shown, by name.
    """
    for old in (out / FOLDER).glob("false-*.jpg"):
        old.unlink()
    targets = np.array([record.target for record in records], dtype=np.int64)
    probabilities = np.array([prediction.probabilities[1] for prediction in predictions])
    missed, alarmed = confident_errors(targets, probabilities, threshold)
    constant = predictions[0].explain("contrast").bias
    page: list[Block] = [
        text(
            f"The {MOST} false negatives with the lowest and the {MOST} false positives with the highest probability, "
            "or all where there are fewer. Left the film, right the same film under the map of the logit, PNEUMONIA "
            "minus NORMAL: red is evidence for PNEUMONIA, blue for NORMAL, on one scale for all films. The logit is "
            f"the mean of the map plus the model's constant, {constant:+.2f}: a map that is mostly of one colour can "
            "lie under either call."
        ),
        text("This page shows films: keep it as carefully as them."),
    ]
    for kind, title, chosen in (
        ("false-negative", "False negatives: PNEUMONIA called NORMAL", missed),
        ("false-positive", "False positives: NORMAL called PNEUMONIA", alarmed),
    ):
        page.append(Heading(title, 3))
        pictures: list[Picture] = []
        for number, i in enumerate(chosen, 1):
            name = f"{FOLDER}/{kind}-{number:02}.jpg"
            grid = predictions[i].explain("contrast").grid
            save_picture(side_by_side(films[records[i].name], grid, cam_scale), out / name)
            known = [f"{column} {records[i].extra[column]}" for column in COLUMNS if records[i].extra.get(column)]
            said = f"{number}. P(PNEUMONIA) {probabilities[i]:.3f}, mean of the map {grid.mean():+.2f}"
            words = ", ".join([said, *known])
            pictures.append(Picture(name, f"{kind} {number}: film and map", (f"{words}: ", Code(records[i].name))))
        page.append(Pictures(tuple(pictures)) if pictures else text("There are none."))
    return page


def save_picture(picture: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a picture, (H, W, 3), as JPEG, whole or not at all."""
    write_whole(path, lambda partial: Image.fromarray(picture).save(partial, format="JPEG", quality=88))
