"""What each reading of an audit sees of a film: grey values in a coarse grid, the border alone, or all but one of both.

The border is the outer eighth on each side: labels, markers, collimation, arms and shoulders, with little lung or none.
A part that is blanked takes the median grey of the part that stays, so that nothing of it is left to go by.

References
----------
Geirhos, Jacobsen, Michaelis, Zemel, Brendel, Bethge, Wichmann (2020): Shortcut learning in deep neural networks. Nature
Machine Intelligence 2:665-673.
Zech, Badgeley, Liu, Costa, Titano, Oermann (2018): Variable generalization performance of a deep learning model to
detect pneumonia in chest radiographs. PLoS Medicine 15(11):e1002683.
DeGrave, Janizek, Lee (2021): AI for radiographic COVID-19 detection selects shortcuts over signal. Nature Machine
Intelligence 3:610-619.
Maguolo, Nanni (2021): A critic evaluation of methods for COVID-19 automatic detection from X-ray images. Information
Fusion 76:1-7. They blanked the lungs and could still tell the collections apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from cxr.films.film import Pixels
from cxr_training.data.progress import progress_bar
from cxr_training.measure.metrics import Floats

SIDE: Final = 64  # cells along a side of the grid the border is seen in: fine enough for a marker
COARSE: Final = 32  # cells along a side for the whole film: 1,024 grey values, no detail
EIGHTH: Final = 8

READINGS: Final = {
    "pixels": f"grey values, {COARSE} x {COARSE}",
    "border": "border alone",
    "model": "model, whole films",
    "model_centre_blanked": "model, centre blanked",
    "model_border_blanked": "model, border blanked",
    "source_alone": "source alone, no film",
}


def border_of(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Which pixels lie in the outer eighth on one side or another: (height, width)."""
    border = np.ones((height, width), dtype=np.bool_)
    top, left = (int(length / EIGHTH + 0.5) for length in (height, width))  # as the cells of `squashed` fall
    border[top : height - top, left : width - left] = False
    return border


def centre_blanked(pixels: Pixels) -> Pixels:
    """The film with its border alone; the centre has the border's median grey. (H, W) uint8 as the film."""
    return _blanked(pixels, ~border_of(*pixels.shape))


def border_blanked(pixels: Pixels) -> Pixels:
    """The film with its centre alone; the border has the centre's median grey. (H, W) uint8 as the film."""
    return _blanked(pixels, border_of(*pixels.shape))


def _blanked(pixels: Pixels, where: npt.NDArray[np.bool_]) -> Pixels:
    changed = pixels.copy()
    changed[where] = round(float(np.median(pixels[~where])))
    return changed


def squashed(pixels: Pixels) -> Pixels:
    """The film in 64 x 64 cells, each the mean of its own pixels, so that no centre bleeds into the border: uint8."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX))


def coarse_values(grid: Pixels) -> Floats:
    """The whole film in 32 x 32 cells: (N, 64, 64) becomes (N, 1024)."""
    step = SIDE // COARSE
    cells = grid.reshape(len(grid), COARSE, step, COARSE, step).mean(axis=(2, 4))
    return np.asarray(cells.reshape(len(grid), -1), dtype=np.float64)


def border_values(grid: Pixels) -> Floats:
    """The cells of the border: (N, 64, 64) becomes (N, 1792)."""
    return np.asarray(grid[:, border_of(SIDE, SIDE)], dtype=np.float64)


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
    train: tuple[Inputs, Labels], val: tuple[Inputs, Labels], *, balanced: bool = False, name: str
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
    for strength in progress_bar(STRENGTHS, name, "fit"):
        regression = LogisticRegression(C=strength, class_weight=weights, max_iter=_STEPS)
        pipeline = make_pipeline(StandardScaler(), regression).fit(*train)
        loss = log_loss(val[1], pipeline.predict_proba(val[0]), labels=pipeline.classes_, sample_weight=sample)
        if best is None or loss < lowest:
            best, lowest = Linear(strength, pipeline.classes_, pipeline), float(loss)
    assert best is not None
    return best
