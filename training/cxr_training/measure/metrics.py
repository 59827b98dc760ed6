"""Figures of merit of a two-class reading, PNEUMONIA being positive."""

from __future__ import annotations

from collections.abc import Mapping
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
    return float(_calibration_errors(targets, probabilities, np.ones((1, len(targets))))[0])


def predictive_values(sensitivity: Floats, specificity: Floats, prevalence: float | Floats) -> tuple[Floats, Floats]:
    """PPV and NPV of a test at a prevalence, by Bayes' theorem; NaN where nothing would be called so.

    References
    ----------
    Altman, Bland (1994): Diagnostic tests 2: predictive values. BMJ 309:102.
    """
    found, missed = sensitivity * prevalence, (1.0 - sensitivity) * prevalence
    cleared, alarmed = specificity * (1.0 - prevalence), (1.0 - specificity) * (1.0 - prevalence)
    return _ratio(found, found + alarmed), _ratio(cleared, cleared + missed)


def weighted_figures(
    targets: Targets, probabilities: Floats, threshold: float, weights: Floats
) -> Mapping[str, Floats]:
    """Every figure of `binary_metrics` for many weightings of the same films at once.

    A film of weight 2 counts as two films, so a resample is a row of counts and thousands of them are a few matrix
    products. scikit-learn takes one weighting at a time, which is a hundred times slower.

    Parameters
    ----------
    targets, probabilities, threshold
        As in `binary_metrics`.
    weights
        (B, N).

    Returns
    -------
    (B,) for each figure and for ``prevalence``, NaN where the weighted films lack a class the figure needs.
    """
    right = (probabilities >= threshold) == targets
    total = weights.sum(axis=1)
    positives, negatives = weights @ targets, weights @ (1 - targets)
    sure = np.clip(np.where(targets, probabilities, 1.0 - probabilities), np.finfo(np.float64).eps, None)
    auroc, auprc = _areas(targets, probabilities, weights)
    return {
        "auroc": auroc,
        "auprc": auprc,
        "sensitivity": _ratio(weights @ (right * targets), positives),
        "specificity": _ratio(weights @ (right * (1 - targets)), negatives),
        "accuracy": _ratio(weights @ right, total),
        "brier": _ratio(weights @ (probabilities - targets) ** 2, total),
        "log_loss": _ratio(weights @ -np.log(sure), total),
        "ece": _calibration_errors(targets, probabilities, weights),
        "prevalence": _ratio(positives, total),
    }


def counts_by_score(targets: Targets, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of PNEUMONIA and of NORMAL films at each distinct probability, the highest first: (B, U) each."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    positive, weights = targets[order], weights[:, order]
    return (
        np.add.reduceat(weights * positive, starts, axis=1),
        np.add.reduceat(weights * (1 - positive), starts, axis=1),
    )


def _areas(targets: Targets, probabilities: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """AUROC as the share of pairs in the right order, ties half; AUPRC as the average precision."""
    positive, negative = counts_by_score(targets, probabilities, weights)
    found, alarmed = positive.cumsum(axis=1), negative.cumsum(axis=1)
    total, others = found[:, -1], alarmed[:, -1]
    pairs = (positive * (others[:, None] - alarmed + negative / 2.0)).sum(axis=1)
    precise = (positive * np.nan_to_num(_ratio(found, found + alarmed))).sum(axis=1)
    return _ratio(pairs, total * others), np.where(others > 0, _ratio(precise, total), np.nan)


def _calibration_errors(targets: Targets, probabilities: Floats, weights: Floats) -> Floats:
    bins = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.zeros((len(targets), _BINS))
    gaps[np.arange(len(targets)), bins] = probabilities - targets
    return _ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    part = np.asarray(part, dtype=np.float64)
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
