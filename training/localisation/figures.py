"""The figures of a model on boxes, over films, with their intervals.

What the maps do on their own films is set beside three things that need no look at the film:

- ``swapped``: the maps of other patients' films in the place of the film's own. A model whose map has nothing to do
  with where the opacity of this film is does the same with either, whatever its maps look like.
- ``mean_map``: the mean of the maps, put on every film. It knows where this model looks on average.
- ``area``: a map of one value everywhere has the boxes' share of the area as its energy, and pointing at random hits as
  often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cxr.model.spec import CLASSES
from training.data import Record
from training.intervals import Bootstrap, percentiles, share_interval
from training.localisation.boxes import Marked
from training.localisation.maps import Looks
from training.metrics import Floats

FIGURES: Final = (
    *("pointing", "pointing_swapped", "pointing_over_swapped", "pointing_mean_map"),
    *("energy", "energy_swapped", "energy_over_swapped", "energy_mean_map"),
    "area",
)
_SHARES_OF_FILMS: Final = ("pointing", "pointing_mean_map")


def localisation_figures(
    looks: Looks | None,
    marked: Iterable[Marked | None],
    records: Iterable[Record],
    boxes_from: str,
    bootstrap: Bootstrap,
) -> dict[str, Any] | None:
    """The content of ``localisation`` in `metrics.json`; None where no film of PNEUMONIA has a box.

    Returns
    -------
    ``boxes_from``, ``positive`` (films of PNEUMONIA, with boxes or without), ``normal_with_boxes`` (films that are left
    out because their label and their boxes disagree), and the figures over ``all`` films and those ``called`` PNEUMONIA
    (None where there are none). Each group has its ``films``, ``patients``, ``boxes``, ``without_evidence`` (films
    whose map has no evidence for PNEUMONIA), each of `FIGURES` with its interval as ``NAME_ci`` by the rules of
    `training.intervals`, and ``exact_ci``, those whose interval is the exact binomial one.
    """
    if looks is None:
        return None
    called = np.array([prediction.label == CLASSES[1] for prediction in looks.predictions])
    return {
        "boxes_from": boxes_from,
        "positive": sum(record.target for record in records),
        "normal_with_boxes": sum(film is not None and film.record.label == CLASSES[0] for film in marked),
        "all": _figures(looks, np.ones_like(called), bootstrap),
        "called": _figures(looks, called, bootstrap) if called.any() else None,
    }


def _figures(looks: Looks, rows: npt.NDArray[np.bool_], bootstrap: Bootstrap) -> dict[str, Any]:
    films = [film for film, chosen in zip(looks.films, rows, strict=True) if chosen]
    patients = [film.record.patient_id for film in films]
    count = len(set(patients))
    points = _means(looks, rows, patients, np.ones((1, len(films))))
    blocks = [_means(looks, rows, patients, weights) for weights in bootstrap.weights(patients)]
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
    return {
        "films": len(films),
        "patients": count,
        "boxes": sum(len(film.boxes) for film in films),
        "without_evidence": int((~looks.has_evidence[rows]).sum()),
        **figures,
        "exact_ci": exact,
    }


def _means(looks: Looks, rows: npt.NDArray[np.bool_], patients: Sequence[str], weights: Floats) -> dict[str, Floats]:
    """Each of `FIGURES` averaged over films with each row of weights, (b, N): (b,) each.

    The mean map is held fixed. Swapped maps are weighted as their films are: in a resample they come from the patients
    that were drawn.
    """
    owners = np.asarray(patients)
    others = (owners[:, None] != owners[None, :]).astype(np.float64)
    among = weights @ others
    found: dict[str, Floats] = {}
    for name, crossed, mean_map in (
        ("pointing", looks.pointing, looks.mean_map_pointing),
        ("energy", looks.energy, looks.mean_map_energy),
    ):
        here = crossed[np.ix_(rows, rows)]
        with np.errstate(invalid="ignore"):  # 0 / 0 where a single patient was drawn
            swapped = weights @ (here * others).T / among
        found[name] = _mean(weights, np.diagonal(here))
        found[f"{name}_swapped"] = _mean(weights, swapped)
        found[f"{name}_over_swapped"] = found[name] - found[f"{name}_swapped"]
        found[f"{name}_mean_map"] = _mean(weights, mean_map[rows])
    found["area"] = _mean(weights, looks.area[rows])
    return found


def _mean(weights: Floats, values: Floats) -> Floats:
    """Weighted means: (b, N) and (N,) or (b, N) → (b,)."""
    used = np.where(weights > 0.0, values, 0.0)
    return np.asarray((weights * used).sum(axis=1) / weights.sum(axis=1))
