"""Drift: the distance of recent films from those that the model was validated on.

For the score and for a few properties of the film itself, the population stability index (PSI) compares the last films
a worker answered with a reference histogram that came with the model. It needs no labels, so it cannot say that the
model is wrong; it says that nobody has measured it on films like these.
"""

from __future__ import annotations

import json
import math
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from cxr.errors import ModelError
from cxr.films.film import Pixels
from cxr.json_records import read_text, sealed
from cxr.model.spec import ModelSpec
from cxr.serving.metrics import SIGNALS, BatchMetrics

WINDOW: Final = 500  # films
FEWEST: Final = 50  # with fewer films the index is noise, and is not published; each worker counts its own
EVERY: Final = 10  # films between two times it is published
SHIFT: Final = 0.25  # at and above it the distribution has shifted (Siddiqi 2006)
_SMOOTHING: Final = 0.5  # a film: an empty bin would make the index infinite
_BLACK: Final = 5  # of 255: frames, collimation, padding


def film_signals(tensor_film: Pixels, width: int, height: int) -> dict[str, float]:
    """Properties of a film that change with machines, exports and ways of sending, by name.

    Parameters
    ----------
    tensor_film
        The film at the size of the network's input, (size, size) uint8.
    width, height
        Of the film as it stands upright, pixels.

    Returns
    -------
    ``mean_grey`` and ``contrast`` (standard deviation), both 0-1; ``sharpness``, the mean step between neighbouring
    pixels in standard deviations; ``border``, the share of black pixels; ``aspect``, width / height.
    """
    counts = np.bincount(tensor_film.ravel(), minlength=256)
    greys = np.arange(256)
    mean = float(counts @ greys) / tensor_film.size
    deviation = math.sqrt(max(float(counts @ greys**2) / tensor_film.size - mean**2, 0.0))
    grey = tensor_film.astype(np.int16)
    steps = float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
    return {
        "mean_grey": mean / 255,
        "contrast": deviation / 255,
        "sharpness": steps / max(deviation, 1.0),
        "border": float(counts[: _BLACK + 1].sum()) / tensor_film.size,
        "aspect": width / height,
    }


def psi(reference: Sequence[int], recent: Sequence[int]) -> float:
    """The population stability index of two histograms with the same bins: 0 where they are alike.

    Half a film is added to every bin of both, because an empty bin would make it infinite.

    References
    ----------
    Siddiqi (2006): Credit Risk Scorecards, Wiley: the sum over the bins of (p - q) ln(p / q); 0.1 and 0.25 are its
    customary limits. It is the symmetrised divergence of Kullback and Leibler (1951), Ann. Math. Statist. 22.
    """
    in_all, in_recent = sum(reference) + _SMOOTHING * len(reference), sum(recent) + _SMOOTHING * len(recent)
    total = 0.0
    for before, after in zip(reference, recent, strict=True):
        q, p = (before + _SMOOTHING) / in_all, (after + _SMOOTHING) / in_recent
        total += (p - q) * math.log(p / q)
    return total


def psi_limit(chi_square: float, reference_films: int, recent_films: int) -> float:
    """The index above which the films have shifted, and are not just few.

    Where nothing changed, the PSI is near to a chi-square variable with (bins - 1) degrees of freedom, times
    (1 / n + 1 / m) for n recent and m reference films: its mean alone is (bins - 1)(1 / n + 1 / m).

    Parameters
    ----------
    chi_square
        The quantile that chance may reach.

    References
    ----------
    Yurdakul (2018): Statistical Properties of Population Stability Index. Dissertation, Western Michigan University.
    """
    return max(SHIFT, chi_square * (1 / recent_films + 1 / reference_films))


class DriftWindow:
    """The last films of one worker against a reference.

    The same film again, as of a probe or a client that tries once more, is not counted twice.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._films: deque[tuple[int, tuple[int, ...]]] = deque()  # checksum, bin of each signal
        self._known: set[int] = set()
        self._counts = {name: [0] * len(reference.signals[name].counts) for name in SIGNALS}
        self._until_published = FEWEST

    def add(self, tensor_film: Pixels, width: int, height: int, probability: float) -> None:
        """Put an answered film into the window, and the oldest out where it is full."""
        checksum = zlib.crc32(tensor_film.tobytes())
        if checksum in self._known:
            return
        signals = {"score": probability, **film_signals(tensor_film, width, height)}
        bins = tuple(bisect_right(self.reference.signals[name].edges, signals[name]) for name in SIGNALS)
        self._films.append((checksum, bins))
        self._known.add(checksum)
        self._shift_counts(bins, 1)
        if len(self._films) > WINDOW:
            oldest, its_bins = self._films.popleft()
            self._known.discard(oldest)
            self._shift_counts(its_bins, -1)
        self._until_published -= 1

    def _shift_counts(self, bins: Sequence[int], by: int) -> None:
        for name, number in zip(SIGNALS, bins, strict=True):
            self._counts[name][number] += by

    @property
    def counts(self) -> dict[str, tuple[int, ...]]:
        """Films of the window in each bin of each signal."""
        return {name: tuple(counts) for name, counts in self._counts.items()}

    def indices(self) -> Mapping[str, float]:
        """The PSI of each signal over the films now in the window."""
        return {name: psi(self.reference.signals[name].counts, self._counts[name]) for name in SIGNALS}

    def publish(self, metrics: BatchMetrics) -> None:
        """Add index and limit of each signal to the metrics, if enough films came since the last time."""
        if self._until_published > 0:
            return
        self._until_published = EVERY
        films = len(self._films)
        metrics.observe("cxr_drift_films", films)
        for name, index in self.indices().items():
            limit = psi_limit(self.reference.signals[name].chi_square, self.reference.films, films)
            metrics.observe("cxr_drift_psi", index, name)
            metrics.observe("cxr_drift_psi_limit", limit, name)


DRIFT_FILE: Final = "drift.json"


@dataclass(frozen=True, slots=True)
class Histogram:
    """One signal.

    Parameters
    ----------
    edges
        Inner edges of the bins, rising; a value on an edge is in the upper bin.
    counts
        Films in each bin, one more than there are edges.
    chi_square
        Quantile of the chi-square distribution for these bins that chance may reach (`cxr.serving.drift.psi_limit`).
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    chi_square: float

    def __post_init__(self) -> None:
        if not self.edges or not all(a < b for a, b in pairwise(self.edges)) or not all(map(math.isfinite, self.edges)):
            raise ModelError(f"edges are {self.edges}: at least one is needed, all finite and rising")
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0 or sum(self.counts) < 1:
            raise ModelError(f"{len(self.counts)} counts for {len(self.edges)} edges: one more is needed, none below 0")
        if not (math.isfinite(self.chi_square) and self.chi_square > 0):
            raise ModelError(f"chi_square is {self.chi_square}: a finite number above 0 is needed")


@dataclass(frozen=True, slots=True)
class Reference:
    """The films that recent ones are compared with, as distributions.

    Parameters
    ----------
    weights_sha256, temperature
        Of the exported model whose scores these are; of any other model they mean nothing.
    checkpoint_sha256
        Of the checkpoint it was exported from.
    films
        How many films it was made from.
    signals
        One histogram for each of `cxr.serving.metrics.SIGNALS`.
    """

    weights_sha256: str
    checkpoint_sha256: str
    temperature: float
    films: int
    signals: Mapping[str, Histogram]

    def __post_init__(self) -> None:
        if set(self.signals) != set(SIGNALS):
            raise ModelError(f"signals are {sorted(self.signals)}: needed are {sorted(SIGNALS)}")
        for name, histogram in self.signals.items():
            if sum(histogram.counts) != self.films:
                raise ModelError(f"{name} counts {sum(histogram.counts)} films, the reference has {self.films}")

    def to_json(self) -> str:
        """The reference as JSON, the same text for the same reference."""
        return json.dumps(sealed(asdict(self)), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Reference:
        """The reference in a `drift.json`.

        Raises
        ------
        ModelError
            If the text is not JSON, or a field is missing, unknown or out of range.
        """
        return read_text(text, cls, f"{DRIFT_FILE} is no drift reference of this version")


def read_reference(folder: Path, spec: ModelSpec) -> Reference | None:
    """The reference for a model, from a folder's `drift.json`.

    Returns
    -------
    None where there is no such file, or it is of other weights or another temperature.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = folder / DRIFT_FILE
    if not path.is_file():
        return None
    try:
        reference = Reference.from_json(path.read_bytes())
    except (ModelError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}): run pneumoscan calibrate again") from error
    is_its = reference.weights_sha256 == spec.weights_sha256 and reference.temperature == spec.temperature
    return reference if is_its else None
