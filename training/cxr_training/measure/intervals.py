"""Intervals of 95 % by a bootstrap over patients.

Films of one patient resemble each other, so they are drawn together or not at all: patients are drawn with replacement,
as many as there are, and each brings all its films. The interval is the middle 95 % of the figure over the resamples.

Some figures have an interval of another kind, or none:

- A sensitivity, specificity or accuracy of exactly 0 or 1 is the same in every resample, which is no reason to be sure
  of it, and one of a handful of patients takes few values. Where it is 0 or 1, or of fewer than 10 patients, it gets
  the exact binomial interval with each patient counting as one observation however many films it has.
- Any other figure has no interval where there are fewer than 10 patients, where it is undefined in more than 5 % of the
  resamples (a class was not drawn, and what is left would be the lucky draws), or where all resamples agree.

References
----------
Efron, Tibshirani (1993): An Introduction to the Bootstrap, chapters 8 and 13.
Field, Welsh (2007): Bootstrapping clustered data. Journal of the Royal Statistical Society B 69:369-390.
Clopper, Pearson (1934): The use of confidence or fiducial limits illustrated in the case of the binomial. Biometrika
26:404-413.
Korn, Graubard (1998): Confidence intervals for proportions with small expected number of positive counts estimated from
survey data. Survey Methodology 24:193-201.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.stats import beta

from cxr.model.classes import Scheme
from cxr_training.errors import TrainingError
from cxr_training.measure.metrics import Floats, Targets, binary_metrics, predictive_values, weighted_figures
from cxr_training.measure.records import (
    PREVALENCES,
    RESAMPLES,
    ClassFigures,
    GroupFigures,
    Interval,
    OneClass,
    PredictiveValues,
    Resampling,
)

LEVEL: Final = 0.95
FEWEST_PATIENTS: Final = 10
MOST_UNDEFINED: Final = 0.05  # of the resamples
WITH_INTERVAL: Final = ("auroc", "auprc", "sensitivity", "specificity", "accuracy", "brier", "log_loss", "ece")
_FEWEST_RESAMPLES: Final = 100
_BLOCK: Final = 2_000_000  # weights held at once

_SAME: Final = 1e-12  # narrower than this is rounding


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How many resamples, and the seed they are drawn with."""

    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < _FEWEST_RESAMPLES:
            raise TrainingError(f"{self.resamples} resamples are too few for an interval: {_FEWEST_RESAMPLES} or more")
        if self.seed < 0:
            raise TrainingError(f"seed is {self.seed}: 0 or more")

    @property
    def record(self) -> Resampling:
        """What the files say of it."""
        return Resampling("patient", LEVEL, self.resamples, self.seed)

    def weights(self, patients: Sequence[str]) -> Iterator[Floats]:
        """How often each film is in each resample, in blocks of rows: (b, N), `resamples` rows in all.

        Parameters
        ----------
        patients
            (N,), whose film each is. The order of the films does not change what is drawn.
        """
        names, owner = np.unique(np.asarray(patients), return_inverse=True)
        rng = np.random.default_rng(self.seed)
        rows = max(1, _BLOCK // len(owner))
        for start in range(0, self.resamples, rows):
            b = min(rows, self.resamples - start)
            drawn = rng.integers(0, len(names), (b, len(names))) + np.arange(b)[:, None] * len(names)
            counts = np.bincount(drawn.ravel(), minlength=b * len(names)).reshape(b, len(names))
            yield counts[:, owner].astype(np.float64)


STANDARD: Final = Bootstrap()


def percentiles(sample: Floats, patients: int) -> Interval | None:
    """The middle 95 % of a figure's resamples, (B,) with NaN where it is undefined; None by the rules above."""
    defined = sample[~np.isnan(sample)]
    if patients < FEWEST_PATIENTS or len(defined) < (1.0 - MOST_UNDEFINED) * len(sample):
        return None
    low, high = np.percentile(defined, [50.0 * (1.0 - LEVEL), 50.0 * (1.0 + LEVEL)])
    return (float(low), float(high)) if high - low > _SAME else None


def exact_interval(share: float, patients: int) -> Interval:
    """The exact binomial interval of a share, each patient being one observation; ``share * patients`` may be uneven.

    Clopper and Pearson's interval as Korn and Graubard carry it to clusters, the films of a patient being taken for
    alike: it errs on the side of being wide.
    """
    found, tail = share * patients, (1.0 - LEVEL) / 2.0
    low = beta.ppf(tail, found, patients - found + 1.0) if share > 0.0 else 0.0
    high = beta.ppf(1.0 - tail, found + 1.0, patients - found) if share < 1.0 else 1.0
    return float(low), float(high)


def share_interval(share: float | None, sample: Floats, patients: int) -> tuple[Interval | None, bool]:
    """The interval of a share of films, and whether it is the exact one.

    Parameters
    ----------
    share
        What was found; None where there are no films.
    sample
        (B,), its resamples.
    patients
        Those who have such films.
    """
    if share is not None and (share in (0.0, 1.0) or patients < FEWEST_PATIENTS):
        return exact_interval(share, patients), True
    return (None if share is None else percentiles(sample, patients)), False


def resample(targets: Targets, probabilities: Floats, threshold: float, blocks: Iterable[Floats]) -> dict[str, Floats]:
    """Every figure in every resample: (B,) each, as `weighted_figures` gives them."""
    parts = [weighted_figures(targets, probabilities, threshold, weights) for weights in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def group_figures(
    targets: Targets,
    probabilities: Floats,
    patients: Sequence[str],
    threshold: float,
    bootstrap: Bootstrap,
    prevalences: Sequence[float] = PREVALENCES,
) -> GroupFigures:
    """The figures of one group of films with their intervals.

    Parameters
    ----------
    targets, probabilities, threshold
        As in `binary_metrics`.
    patients
        (N,), whose film each is.
    prevalences
        Of PNEUMONIA where the model would be used, for PPV and NPV.
    """
    points = binary_metrics(targets, probabilities, threshold)
    resamples = resample(targets, probabilities, threshold, bootstrap.weights(patients))
    owners = np.asarray(patients)
    count = len(np.unique(owners))
    among = {"sensitivity": targets == 1, "specificity": targets == 0, "accuracy": np.ones(len(targets), np.bool_)}
    figures: dict[str, Any] = {}
    exact: list[str] = []
    for name, value in points.items():
        figures[name] = value
        if name in among:
            concerned = len(np.unique(owners[among[name]]))
            figures[f"{name}_ci"], is_exact = share_interval(points[name], resamples[name], concerned)
            exact += [name] if is_exact else []
        elif name in WITH_INTERVAL:
            figures[f"{name}_ci"] = None if value is None else percentiles(resamples[name], count)
    return GroupFigures(
        patients=count,
        **figures,
        exact_ci=tuple(exact),
        undefined_resamples=_undefined({name: resamples[name] for name in WITH_INTERVAL}),
        predictive_values=_predictive_values(targets, points, resamples, count, prevalences),
    )


def _predictive_values(
    targets: Targets,
    points: Mapping[str, float | None],
    resamples: Mapping[str, Floats],
    patients: int,
    prevalences: Sequence[float],
) -> tuple[PredictiveValues, ...]:
    """PPV and NPV with intervals at each prevalence.

    The first prevalence is the group's own; its interval lets the prevalence vary with the resamples, the others are
    held fixed.
    """
    own = float(targets.mean())
    drawn: list[tuple[float, float | Floats]] = [
        (own, resamples["prevalence"]),
        *((prevalence, prevalence) for prevalence in prevalences),
    ]
    rows: list[PredictiveValues] = []
    for prevalence, varying in drawn:
        values: dict[str, Any] = {}
        samples = predictive_values(resamples["sensitivity"], resamples["specificity"], varying)
        both = np.array([points["sensitivity"], points["specificity"]], dtype=np.float64)  # None becomes NaN
        found = predictive_values(both[:1], both[1:], prevalence)
        for name, value, sample in zip(("ppv", "npv"), found, samples, strict=True):
            defined = bool(np.isfinite(value[0]))
            values[name] = float(value[0]) if defined else None
            values[f"{name}_ci"] = percentiles(sample, patients) if defined else None
        undefined = _undefined(dict(zip(("ppv", "npv"), samples, strict=True)))
        rows.append(PredictiveValues(prevalence, not rows, **values, undefined_resamples=undefined))
    return tuple(rows)


def class_figures(
    targets: Targets,
    called: Targets,
    probabilities: Floats,
    patients: Sequence[str],
    scheme: Scheme,
    bootstrap: Bootstrap,
) -> ClassFigures:
    """How the classes are told apart, with intervals: each against the rest, and all of them at once.

    Parameters
    ----------
    targets, called
        (N,), the classes as indices, true and called.
    probabilities
        (N, K).
    patients
        (N,), whose film each is.
    """
    owners = np.asarray(patients)
    right = (called == targets).astype(np.float64)
    accuracy = float(right.mean())
    sample = np.concatenate([weights @ right / weights.sum(axis=1) for weights in bootstrap.weights(patients)])
    interval, is_exact = share_interval(accuracy, sample, len(np.unique(owners)))
    classes = range(len(scheme.classes))
    return ClassFigures(
        classes=scheme.classes,
        positive=scheme.positive,
        confusion=tuple(tuple(int(((targets == i) & (called == j)).sum()) for j in classes) for i in classes),
        accuracy=accuracy,
        accuracy_ci=interval,
        exact_ci=("accuracy",) if is_exact else (),
        one_vs_rest={
            name: _one_class((targets == i).astype(np.int64), called == i, probabilities[:, i], patients, bootstrap)
            for i, name in enumerate(scheme.classes)
        },
    )


def _one_class(
    targets: Targets, called: Floats, probabilities: Floats, patients: Sequence[str], bootstrap: Bootstrap
) -> OneClass:
    owners = np.asarray(patients)
    calls = called.astype(np.float64)  # at and above a half: called
    points = binary_metrics(targets, calls, 0.5)
    by_call = resample(targets, calls, 0.5, bootstrap.weights(patients))
    ranked = resample(targets, probabilities, 0.5, bootstrap.weights(patients))["auroc"]
    auroc = binary_metrics(targets, probabilities, 0.5)["auroc"]
    figures: dict[str, Any] = {"auroc": auroc}
    figures["auroc_ci"] = None if auroc is None else percentiles(ranked, len(np.unique(owners)))
    exact: list[str] = []
    for name, among in (("sensitivity", targets == 1), ("specificity", targets == 0)):
        figures[name] = points[name]
        interval, is_exact = share_interval(points[name], by_call[name], len(np.unique(owners[among])))
        figures[f"{name}_ci"] = interval
        exact += [name] if is_exact else []
    patients_of = len(np.unique(owners[targets == 1]))
    return OneClass(films=int(targets.sum()), patients=patients_of, **figures, exact_ci=tuple(exact))


def _undefined(samples: dict[str, Floats]) -> dict[str, int]:
    counts = {name: int(np.isnan(sample).sum()) for name, sample in samples.items()}
    return {name: count for name, count in counts.items() if count}
