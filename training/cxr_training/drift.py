"""The drift reference: how score and film properties are distributed over films the model was not trained on.

`pneumoscan calibrate` makes it from the validation films. A hospital whose films or whose share of pneumonia differ
from these sees a shift from the first day; `pneumoscan drift` makes the reference from films of its own.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from scipy.stats import chi2

from cxr.errors import ModelError
from cxr.model.spec import ModelSpec
from cxr.serving.drift import DRIFT_FILE, Histogram, Reference, film_signals
from cxr.serving.metrics import SIGNALS
from cxr_training.data.records import load_films
from cxr_training.errors import TrainingError
from cxr_training.measure.metrics import Floats
from cxr_training.measure.scoring import ReadFilm, scored_films
from cxr_training.runs import checkpoint_predictor, spec_of
from pneumoscan.files import write_text

FEWEST: Final = 30  # films; with fewer there is no reference, and with few only a large shift is one
_BINS: Final = 10
_FILMS_A_BIN: Final = 10  # at least, on average
# Chance reaches the limit of one signal once in ten thousand independent windows of films.
_CHANCE: Final = 1e-4
_MARGIN: Final = 0.01  # of a value that many films share: as far as its own bin goes


def signals_of(film: ReadFilm) -> dict[str, float]:
    """The properties of a film that a server watches: of what the network sees, and of the size of the film as stored.

    A film that was decoded reduced has its size rounded.
    """
    return film_signals(film.input, film.info.width, film.info.height)


def reference_of(
    signals: Sequence[Mapping[str, float]], probabilities: Floats, spec: ModelSpec, temperature: float
) -> Reference | None:
    """The reference for a checkpoint, or None where the films are too few.

    Parameters
    ----------
    signals
        Of films the model was not trained on, N, as `signals_of` gives them.
    probabilities
        (N,), of the positive group of each, at this temperature.
    spec
        Of the checkpoint.
    """
    if len(signals) < FEWEST:
        return None
    columns = {name: np.array([one[name] for one in signals]) for name in SIGNALS if name != "score"}
    histograms = {name: histogram_of(values) for name, values in {**columns, "score": probabilities}.items()}
    return Reference(spec.weights_sha256, spec.weights_sha256, temperature, len(signals), histograms)


def histogram_of(values: Floats) -> Histogram:
    """A histogram with up to ten bins that hold about as many films each.

    Edges lie halfway between two films, so that rounding moves none across. A value that many films share, such as the
    aspect of one machine's films, gets a bin of its own.

    Parameters
    ----------
    values
        (N,), finite.
    """
    films = len(values)
    bins = max(2, min(_BINS, films // _FILMS_A_BIN))
    distinct, counts = np.unique(values, return_counts=True)
    below = np.cumsum(counts)
    edges: set[float] = set()
    for k in range(1, bins):
        at = int(np.searchsorted(below, k * films / bins))
        is_shared = counts[at] >= 2 * films / bins
        if at + 1 < len(distinct) or is_shared:
            edges.add(_edge(distinct, at, 1))
        if is_shared:
            edges.add(_edge(distinct, at, -1))
    inner = tuple(sorted(edges))
    held = np.bincount(np.searchsorted(inner, values, side="right"), minlength=len(inner) + 1)
    return Histogram(inner, tuple(int(count) for count in held), float(chi2.isf(_CHANCE, len(inner))))


def _edge(distinct: Floats, at: int, side: int) -> float:
    """Halfway from a value to the next one on a side, or a little beside it where there is none."""
    value = float(distinct[at])
    margin = _MARGIN * max(abs(value), _MARGIN)
    neighbour = float(distinct[at + side]) if 0 <= at + side < len(distinct) else value + 2 * side * margin
    return (value + neighbour) / 2


def write_reference(run: Path, reference: Reference | None) -> None:
    """Leave `drift.json` in a run, or none where there is no reference: an old one would be another calibration's."""
    if reference is None:
        (run / DRIFT_FILE).unlink(missing_ok=True)
    else:
        write_text(run / DRIFT_FILE, reference.to_json())


def carry_reference(run: Path, spec: ModelSpec) -> None:
    """Name the exported weights in a run's `drift.json`, whose digest differs from the checkpoint's in another format.

    Parameters
    ----------
    spec
        Of the exported weights. A reference of another checkpoint is left as it is, and will not be used.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = run / DRIFT_FILE
    if not path.is_file():
        return
    reference = Reference.from_json(path.read_bytes())
    if reference.checkpoint_sha256 == spec_of(run).weights_sha256:
        write_text(path, dataclasses.replace(reference, weights_sha256=spec.weights_sha256).to_json())


def make_reference(run: Path, data: Path, split: str, device: str) -> None:
    """Make the reference of a calibrated run from films of another data folder, and carry it to an exported model.

    Raises
    ------
    TrainingError
        If the run is not calibrated, or the films are too few.
    """
    predictor = checkpoint_predictor(run, device)
    records = load_films(data, predictor.spec.scheme).of(split)
    if predictor.spec.indeterminate is None:
        raise TrainingError(f"{run} is not calibrated: run pneumoscan calibrate --run {run} first")
    signals: list[dict[str, float]] = []
    probabilities: list[float] = []
    for film in scored_films(predictor, records, whole=False):
        signals.append(signals_of(film))
        probabilities.append(film.prediction.probability)
    reference = reference_of(signals, np.array(probabilities), predictor.spec, predictor.spec.temperature)
    if reference is None:
        raise TrainingError(f"{len(records)} films in split {split!r}, {FEWEST} are needed: add films")
    write_reference(run, reference)
    try:
        carry_reference(run, ModelSpec.load(run))
    except ModelError:
        print(f"{run / DRIFT_FILE} is complete after pneumoscan export", file=sys.stderr)
    print(f"{run / DRIFT_FILE}: {len(records)} films of {data}; pack the archive again")
