"""Which films an engine leaves open, because its rounding could change what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


def log_odds(logits: Vector, temperature: float) -> Vector:
    """Log-odds of PNEUMONIA by the calibrated model: logits (..., 2) → (...)."""
    return np.asarray((logits[..., 1] - logits[..., 0]) / temperature)


def left_open(odds: Vector, decisions: Sequence[float], margin: float) -> npt.NDArray[np.bool_]:
    """Whether log-odds are within a margin of a decision's, the margin included, or no number at all.

    Parameters
    ----------
    odds
        (N,) log-odds of PNEUMONIA.
    decisions
        Probabilities of PNEUMONIA where what is said of a film changes.
    margin
        In log-odds; 0 where nothing counts as near.

    Returns
    -------
    (N,)
    """
    worthless = ~np.isfinite(odds)
    if margin <= 0:
        return worthless
    with np.errstate(divide="ignore", invalid="ignore"):
        borders = np.log(decisions) - np.log1p(-np.asarray(decisions))
        return np.asarray((np.abs(odds[:, None] - borders) <= margin).any(axis=1) | worthless)
