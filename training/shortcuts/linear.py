"""A linear model whose strength is chosen on the validation films: the plainest reading there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from tqdm import tqdm

from training.metrics import Floats

STRENGTHS: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C, the inverse of the ridge penalty
_STEPS: Final = 1000

Inputs = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Linear:
    """A fitted logistic regression on standardised inputs.

    Parameters
    ----------
    strength
        The C that was chosen.
    classes
        (K,), sorted.
    pipeline
        scikit-learn's.
    """

    strength: float
    classes: Labels
    pipeline: Any

    def probabilities(self, inputs: Inputs) -> Floats:
        """Of each class, (N, K), in the order of `classes`."""
        return np.asarray(self.pipeline.predict_proba(inputs), dtype=np.float64)


def fit_linear(
    train: tuple[Inputs, Labels], val: tuple[Inputs, Labels], *, balanced: bool = False, name: str, progress: bool
) -> Linear:
    """Fit on training films; of six strengths the one with the lowest log loss on validation is kept.

    All six are tried: where films are few the loss can rise and fall again.

    Parameters
    ----------
    train, val
        Inputs (N, P) and their labels (N,). Validation holds no label that training lacks.
    balanced
        Let each class count the same however many films it has, in the fit and in the choice.
    name
        For the progress bar.
    """
    weights = "balanced" if balanced else None
    sample = compute_sample_weight(weights, val[1])
    best, lowest = None, np.inf
    for strength in tqdm(STRENGTHS, desc=name, unit="fit", disable=not progress, leave=False):
        regression = LogisticRegression(C=strength, class_weight=weights, max_iter=_STEPS)
        pipeline = make_pipeline(StandardScaler(), regression).fit(*train)
        loss = log_loss(val[1], pipeline.predict_proba(val[0]), labels=pipeline.classes_, sample_weight=sample)
        if best is None or loss < lowest:
            best, lowest = Linear(strength, pipeline.classes_, pipeline), float(loss)
    assert best is not None
    return best
