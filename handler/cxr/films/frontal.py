"""The screen for frontal films: the likeness of a film to those its model was trained on, by directions of its edges.

The tags of a DICOM file say what was exposed and how; a JPEG or PNG says nothing. A frontal film has a spine in the
middle, a lung on each side and ribs that fall away from it, and keeps them whatever its exposure, so that a linear
score on a histogram of oriented gradients tells it from a lateral view, a turned film, two views in one picture or
something else altogether. It judges the exposed field, without the frame around it.
`cxr_training.fit.screen` fits the weights; without them every film passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.errors import InputError, ModelError
from cxr.films.exposed_field import Field, cropped, exposed_field
from cxr.films.film import Film, Pixels

SIDE: Final = 64  # pixels of the field whose edges are looked at
SHEET: Final = 128  # pixels of the thumbnail in which the field is looked for
SEES: Final = ("whole", "field")
_CELLS: Final = 8  # along each side
_DIRECTIONS: Final = 8
FEATURES: Final = _CELLS * _CELLS * _DIRECTIONS
_UPPER: Final = (0.75, 0.62, 0.5)  # shares of the field's height that a chest above more of the body may take
_SURELY: Final = 1.5  # log-odds from which an upper part is taken for a chest

Floats = npt.NDArray[np.float32]


def thumbnail(pixels: Pixels, side: int = SHEET) -> Pixels:
    """The whole film as (side, side) uint8, each pixel the mean of what it covers."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))


def field_of(sheet: Pixels) -> Pixels:
    """The exposed field of a `thumbnail` as (SIDE, SIDE) uint8."""
    return cropped(sheet, exposed_field(sheet), SIDE)


def edge_histograms(thumbnails: Pixels) -> Floats:
    """How much edge lies in which direction in each cell, free of brightness and contrast.

    Parameters
    ----------
    thumbnails
        (N, SIDE, SIDE) uint8.

    Returns
    -------
    (N, FEATURES) float32: the square roots of histograms that sum to at most 1; each edge is shared between the two
    nearest of eight directions over the full circle, so that dark-to-bright and bright-to-dark differ.

    References
    ----------
    Dalal, Triggs (2005): Histograms of Oriented Gradients for Human Detection. CVPR, sections 6.2-6.4. The square root
    is that of Arandjelović, Zisserman (2012): Three things everyone should know. CVPR, section 2.1.
    """
    films = thumbnails.astype(np.float32)
    down, right = np.gradient(films, axis=(1, 2))
    strength = np.hypot(down, right)
    direction = np.mod(np.arctan2(down, right) / (2 * np.pi), 1.0) * _DIRECTIONS
    below = np.floor(direction)
    share = direction - below
    cells = np.arange(SIDE) // (SIDE // _CELLS)
    first = (cells[:, None] * _CELLS + cells) * _DIRECTIONS + np.arange(len(films))[:, None, None] * FEATURES
    lower = below.astype(np.int64) % _DIRECTIONS  # a direction of just below the full circle can round to it
    sums = np.zeros(len(films) * FEATURES)
    for nearest, part in ((lower, 1.0 - share), ((lower + 1) % _DIRECTIONS, share)):
        sums += np.bincount((first + nearest).ravel(), (strength * part).ravel(), sums.size)
    flat = sums.reshape(len(films), FEATURES).astype(np.float32)
    return np.asarray(np.sqrt(flat / np.maximum(flat.sum(axis=1, keepdims=True), 1e-6)))


def of_negative(histograms: Floats) -> Floats:
    """The histograms of the same films with black and white swapped: every edge points the other way."""
    by_direction = histograms.reshape(-1, _CELLS, _CELLS, _DIRECTIONS)
    return np.roll(by_direction, _DIRECTIONS // 2, axis=3).reshape(-1, FEATURES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The screen's judgement of one film.

    Parameters
    ----------
    score
        Log-odds that the film, right or with black and white swapped, is frontal.
    is_frontal
        Whether the score reaches the screen's threshold.
    inverted
        Whether it is the swapped film that looks frontal.
    """

    score: float
    is_frontal: bool
    inverted: bool


@dataclass(frozen=True, slots=True)
class Screen:
    """A linear score on `edge_histograms`.

    Parameters
    ----------
    weights, bias
        FEATURES numbers and one; the score is in log-odds of being frontal.
    threshold
        Films that score below it are taken for something else.
    refuses
        Whether such films are refused; else they are flagged only. A screen of drawn films must not refuse real ones.
    sees
        ``field``: the exposed field is judged, and where that is not frontal, its upper part, for a chest above more of
        the body. ``whole``: the whole picture.
    """

    weights: tuple[float, ...]
    bias: float
    threshold: float
    refuses: bool = True
    sees: str = "whole"  # of the screens that were fitted before there was a choice

    def __post_init__(self) -> None:
        if len(self.weights) != FEATURES:
            raise ModelError(f"the screen has {len(self.weights)} weights: {FEATURES} are needed")
        if not np.isfinite([*self.weights, self.bias, self.threshold]).all():
            raise ModelError("the screen has a weight that is not finite: calibrate the run again")
        if self.sees not in SEES:
            raise ModelError(f"the screen sees {self.sees!r}: known are {', '.join(SEES)}")

    def scores(self, histograms: Floats) -> npt.NDArray[np.float64]:
        """Log-odds of being frontal: (N, FEATURES) → (N,)."""
        return np.asarray(histograms.astype(np.float64) @ np.asarray(self.weights) + self.bias)

    def judge(self, pixels: Pixels) -> Verdict:
        """The judgement of a film, (H, W) uint8."""
        if self.sees == "whole":
            return self._verdict(thumbnail(pixels, SIDE))
        sheet = thumbnail(pixels)
        field = exposed_field(sheet)
        verdict = self._verdict(cropped(sheet, field, SIDE))
        if verdict.is_frontal and not verdict.inverted:
            return verdict
        score = self._score_of_upper_part(sheet, field)
        return verdict if score < _SURELY else Verdict(score, is_frontal=True, inverted=False)

    def _verdict(self, seen: Pixels) -> Verdict:
        histograms = edge_histograms(seen[None])
        right, swapped = float(self.scores(histograms)[0]), float(self.scores(of_negative(histograms))[0])
        inverted = right < self.threshold <= swapped
        score = swapped if inverted else right
        return Verdict(score, score >= self.threshold, inverted)

    def _score_of_upper_part(self, sheet: Pixels, field: Field) -> float:
        """The highest score of an upper part; where what lies below it looks frontal too, these are two films."""
        ends = [field.top + share * (field.bottom - field.top) for share in _UPPER]
        upper = [cropped(sheet, replace(field, bottom=end), SIDE) for end in ends]
        lower = [cropped(sheet, replace(field, top=end), SIDE) for end in ends]
        scores = self.scores(edge_histograms(np.stack([*upper, *lower]))).reshape(2, -1)
        return -np.inf if scores[1].max() >= self.threshold else float(scores[0].max())


LATERAL: Final = "LATERAL"


def check_frontal(film: Film, declared: str | None, screen: Screen | None) -> Film:
    """The film with what is known of its view.

    Parameters
    ----------
    declared
        The view as the request says it, None where it does not: PA, AP or LATERAL.
    screen
        Judges the look of films; None judges nothing.

    Returns
    -------
    The film; its view is the file's tag or, without one, the declared one. Flagged ``inverted`` where it looks frontal
    with black and white swapped, and ``unlike_frontal`` where it does not look frontal and is said to be.

    Raises
    ------
    InputError
        NOT_FRONTAL where the request says so, or where nothing says what the view is and the film looks otherwise.
    """
    if declared == LATERAL:
        raise InputError(
            "NOT_FRONTAL", "the request says that the view is lateral. Send the frontal film of the study."
        )
    view = film.info.view_position or declared
    film = replace(film, info=replace(film.info, view_position=view))
    if screen is None:
        return film
    verdict = screen.judge(film.pixels)
    if verdict.inverted:
        return film.flagged("inverted")
    if verdict.is_frontal:
        return film
    if view is None and screen.refuses:
        raise InputError(
            "NOT_FRONTAL",
            f"the film does not look like a frontal chest film: it scores {verdict.score:.1f}, at least "
            f"{screen.threshold:.1f} is needed. Send the frontal film of the study, upright and one view a picture; if "
            "this is one, say so with the header Cxr-View: PA or AP.",
        )
    return film.flagged("unlike_frontal")
