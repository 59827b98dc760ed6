"""Two models on the same films: paired differences over patients, and McNemar's test of their calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from training.intervals import Bootstrap, Interval, percentiles
from training.metrics import Floats, Targets, weighted_figures

FIGURES: Final = ("auroc", "sensitivity", "specificity", "accuracy")

Calls = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of the second model minus that of the first, with its interval and the resamples it is undefined in."""

    difference: float | None
    ci: Interval | None
    undefined_resamples: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """Films that only one of the models calls rightly, and the two-sided p of so uneven a split."""

    only_first_right: int
    only_second_right: int
    p: float


def figures_of(targets: Targets, probabilities: Floats, called: Calls, weights: Floats) -> Mapping[str, Floats]:
    """AUROC by the probabilities, the shares by the calls, for each row of weights: (B,) each."""
    ranked = weighted_figures(targets, probabilities, 0.5, weights)
    by_call = weighted_figures(targets, called.astype(np.float64), 0.5, weights)
    return {"auroc": ranked["auroc"], **{name: by_call[name] for name in FIGURES[1:]}}


def paired_differences(
    targets: Targets,
    first: tuple[Floats, Calls],
    second: tuple[Floats, Calls],
    patients: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Difference]:
    """Differences of AUROC, sensitivity, specificity and accuracy, both models being resampled together.

    Parameters
    ----------
    first, second
        Probabilities (N,) and calls (N,) of each model.
    patients
        (N,), whose film each is.
    """

    def differences(weights: Floats) -> dict[str, Floats]:
        one, two = figures_of(targets, *first, weights), figures_of(targets, *second, weights)
        return {name: two[name] - one[name] for name in FIGURES}

    point = differences(np.ones((1, len(targets))))
    parts = [differences(weights) for weights in bootstrap.weights(patients)]
    found: dict[str, Difference] = {}
    for name in FIGURES:
        sample = np.concatenate([part[name] for part in parts])
        value = float(point[name][0])
        known = not np.isnan(value)
        ci = percentiles(sample, len(set(patients))) if known else None
        found[name] = Difference(value if known else None, ci, int(np.isnan(sample).sum()))
    return found


def mcnemar(targets: Targets, first: Calls, second: Calls) -> McNemar:
    """McNemar's exact test: are the films that one model alone gets right split evenly?

    References
    ----------
    McNemar (1947): Note on the sampling error of the difference between correlated proportions. Psychometrika 12:153.
    """
    one, two = first == targets, second == targets
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    apart = only_first + only_second
    return McNemar(only_first, only_second, float(binomtest(only_first, apart).pvalue) if apart else 1.0)
