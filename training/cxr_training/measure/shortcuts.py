"""How well readings of the same films put PNEUMONIA above NORMAL, with intervals, and what may be said of it.

All readings meet the same resamples of patients, so that differences between them have intervals of their own.

The verdict on a figure follows from its 95 % interval alone: above chance where the whole interval lies above chance,
below chance where it lies below, else not told from chance. A figure without an interval has the verdict ``no
interval``, but for two cases: one that is exactly chance is not told from it; and where every film is in the right
(or every one in the wrong) order, all resamples agree and there is no interval to be had, so it counts as above (or
below) chance if each class has five patients or more. Chance alone would do that at most once in C(10, 5) = 252 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_training.data.groups import groups_of
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.measure.intervals import Bootstrap, percentiles
from cxr_training.measure.metrics import Floats, Targets, weighted_figures
from cxr_training.measure.records import Interval, Reading, ReadingFigures, SourceFigures

ABOVE: Final = "above chance"
BELOW: Final = "below chance"
UNCLEAR: Final = "not told from chance"
NO_INTERVAL: Final = "no interval"
FEWEST_OF_A_CLASS: Final = 5  # patients
_CHANCE: Final = 0.5

Texts = npt.NDArray[np.str_]


def verdict(value: float | None, ci: Interval | None, chance: float, fewest: int) -> str | None:
    """What may be said of a figure between 0 and 1, by the rules above; None where there is no figure.

    Parameters
    ----------
    chance
        What a reading that sees nothing comes to.
    fewest
        Patients of the class that has the fewest.
    """
    if value is None:
        return None
    if ci is not None:
        return ABOVE if ci[0] > chance else BELOW if ci[1] < chance else UNCLEAR
    if value == chance:
        return UNCLEAR
    if value in (0.0, 1.0) and fewest >= FEWEST_OF_A_CLASS:
        return ABOVE if value else BELOW
    return NO_INTERVAL


def auroc_figures(
    readings: Mapping[str, Floats], targets: Targets, patients: Sequence[str], bootstrap: Bootstrap, against: str
) -> dict[str, ReadingFigures]:
    """AUROC of each reading of the same films, and how far it is from one of them, by reading.

    Parameters
    ----------
    readings
        (N,) each, in 0-1; more is more like PNEUMONIA.
    against
        The reading the others are compared with.
    """
    owners = np.asarray(patients)
    count = len(np.unique(owners))
    fewest = min(len(np.unique(owners[targets == target])) for target in (0, 1))
    point = _aurocs(readings, targets, np.ones((1, len(targets))))
    parts = [_aurocs(readings, targets, weights) for weights in bootstrap.weights(patients)] if fewest else [point]
    samples = {name: np.concatenate([part[name] for part in parts]) for name in readings}
    found: dict[str, ReadingFigures] = {}
    for name in readings:
        value = float(point[name][0]) if fewest else None
        ci = percentiles(samples[name], count) if fewest else None
        compared = fewest > 0 and name != against
        difference = samples[name] - samples[against]
        found[name] = ReadingFigures(
            films=len(targets),
            positive=int(targets.sum()),
            patients=count,
            auroc=value,
            auroc_ci=ci,
            verdict=verdict(value, ci, _CHANCE, fewest),
            difference=float(point[name][0] - point[against][0]) if compared else None,
            difference_ci=percentiles(difference, count) if compared else None,
            undefined_resamples=int(np.isnan(samples[name]).sum()) if fewest else 0,
        )
    return found


def _aurocs(readings: Mapping[str, Floats], targets: Targets, weights: Floats) -> dict[str, Floats]:
    return {name: weighted_figures(targets, values, 0.5, weights)["auroc"] for name, values in readings.items()}


def measure(
    readings: Mapping[str, Floats],
    records: Sequence[Record],
    bootstrap: Bootstrap,
    *,
    against: str = "model",
) -> dict[str, Reading]:
    """`auroc_figures` of each reading ``overall`` and by ``groups``: sources, label sources and both together."""
    targets = np.array([record.is_positive for record in records], dtype=np.int64)
    patients = np.array([record.patient_id for record in records])
    everything = {"": np.ones(len(records), dtype=np.bool_)}
    by_source = {
        name: rows for name, rows in groups_of(records).items() if name.startswith(("source=", "label_source="))
    }
    found: dict[str, dict[str, ReadingFigures]] = {name: {} for name in readings}
    bar = progress_bar((everything | by_source).items(), "intervals", "group")
    for group, rows in bar:
        chosen = {name: values[rows] for name, values in readings.items()}
        for name, one in auroc_figures(chosen, targets[rows], patients[rows].tolist(), bootstrap, against).items():
            found[name][group] = one
    return {name: Reading(overall=groups.pop(""), groups=groups) for name, groups in found.items()}


def balanced_accuracy_figures(
    called: Texts, truth: Texts, patients: Sequence[str], bootstrap: Bootstrap, strength: float
) -> SourceFigures:
    """Mean share of rightly called films over the classes that are there, each class counting the same.

    A reading that sees nothing comes to one over the number of classes at best, which is the ``chance`` here.

    Parameters
    ----------
    called, truth
        (N,), the sources as the reading has them and as they are.
    strength
        Of the reading.

    References
    ----------
    Brodersen, Ong, Stephan, Buhmann (2010): The balanced accuracy and its posterior distribution. ICPR, 3121-3124.
    """
    names = np.unique(truth)
    owners = np.asarray(patients)
    of_class = (truth[:, None] == names).astype(np.float64)
    right = of_class * (called == truth)[:, None]

    def balanced(weights: Floats) -> Floats:
        total = weights @ of_class
        shares = np.divide(weights @ right, total, out=np.full_like(total, np.nan), where=total > 0)
        return np.asarray(shares.mean(axis=1))

    value = float(balanced(np.ones((1, len(truth))))[0])
    sample = np.concatenate([balanced(weights) for weights in bootstrap.weights(patients)])
    count, chance = len(np.unique(owners)), 1.0 / len(names)
    ci = percentiles(sample, count)
    fewest = min(len(np.unique(owners[truth == name])) for name in names)
    return SourceFigures(
        sources=tuple(names.tolist()),
        strength=strength,
        films=len(truth),
        patients=count,
        balanced_accuracy=value,
        balanced_accuracy_ci=ci,
        chance=chance,
        verdict=verdict(value, ci, chance, fewest),
        undefined_resamples=int(np.isnan(sample).sum()),
    )
