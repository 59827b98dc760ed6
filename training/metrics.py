"""Figures of merit of a two-class reading, PNEUMONIA being positive."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, log_loss, roc_auc_score

Floats = npt.NDArray[np.float64]
Targets = npt.NDArray[np.int64]

_BINS: Final = 15


def binary_metrics(targets: Targets, probabilities: Floats, threshold: float) -> dict[str, float | int | None]:
    """All figures of one group of films; None where the group has too few classes for a figure.

    Parameters
    ----------
    targets
        (N,), 1 for PNEUMONIA.
    probabilities
        (N,), of PNEUMONIA.
    threshold
        At and above it a film is called PNEUMONIA.
    """
    called = (probabilities >= threshold).astype(np.int64)
    (tn, fp), (fn, tp) = confusion_matrix(targets, called, labels=[0, 1]).tolist()
    both = 0 < targets.sum() < len(targets)
    return {
        "films": len(targets),
        "positive": int(targets.sum()),
        "auroc": float(roc_auc_score(targets, probabilities)) if both else None,
        "auprc": float(average_precision_score(targets, probabilities)) if both else None,
        "sensitivity": _share(tp, tp + fn),
        "specificity": _share(tn, tn + fp),
        "accuracy": _share(tp + tn, len(targets)),
        "brier": float(brier_score_loss(targets, probabilities, labels=[0, 1])) if len(targets) else None,
        "log_loss": float(log_loss(targets, probabilities, labels=[0, 1])) if len(targets) else None,
        "ece": expected_calibration_error(targets, probabilities) if len(targets) else None,
        "true_positive": tp,
        "false_positive": fp,
        "true_negative": tn,
        "false_negative": fn,
    }


def expected_calibration_error(targets: Targets, probabilities: Floats) -> float:
    """Mean distance between the probability of PNEUMONIA and its frequency, over 15 equally wide bins.

    References
    ----------
    Naeini, Cooper, Hauskrecht (2015): Obtaining Well Calibrated Probabilities Using Bayesian Binning. AAAI.
    """
    bins = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    count = np.bincount(bins, minlength=_BINS)
    gap = np.abs(np.bincount(bins, probabilities - targets, minlength=_BINS))
    return float(gap.sum() / count.sum())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
