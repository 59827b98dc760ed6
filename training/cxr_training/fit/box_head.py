"""The head from labels and boxes: what a film is called, and where on it radiologists saw an opacity.

A cell of the map of PNEUMONIA minus NORMAL is a number in logits. Beside the loss of the films, (scale · cell + offset)
is held against the share of the cell that lies in a box. So the map's place in the head does not change: its mean plus
the bias is the logit, exactly, and scale and offset are forgotten after training.

Both losses are smooth and nearly convex, so all films are gone through at once and the steps are those of L-BFGS; no
rate has to be chosen, and the last step is the one that is kept.

References
----------
Liu, Nocedal (1989): On the limited memory BFGS method for large scale optimization. Mathematical Programming 45.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import OptimizeResult, minimize

from cxr_training.data.boxes import BoxedFilm, KeptBoxes, boxed_film
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from cxr_training.fit.feature_rows import Features, StoredFeatures
from cxr_training.fit.features import View
from cxr_training.fit.head import Epoch, Targets, TrainedHead, Weighting, loss_and_accuracy, one_thread, standardisation
from cxr_training.fit.settings import BoxSettings

_CHUNK: Final = 64  # films whose cells are in memory at once
_HISTORY: Final = 20  # steps that L-BFGS remembers
_OFFSET: Final = -3.0  # log-odds to start from: few cells lie in a box


@dataclass(frozen=True, slots=True)
class KnownFilm:
    """A film of which it is known where opacities are: in its boxes, or nowhere."""

    record: Record
    boxed: BoxedFilm | None
    height: int
    width: int

    def shares(self, view: View, cells: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The share of each cell of the network's map that lies in a box under a view, (h, w), to one in 255."""
        mask = np.zeros((self.height, self.width), dtype=np.uint8)
        for box in self.boxed.boxes if self.boxed else ():
            left, top, right, bottom = (round(n) for n in (box.x, box.y, box.x + box.width, box.y + box.height))
            mask[top:bottom, left:right] = 255
        picture = Image.fromarray(view.changed(self.record, mask))
        return np.asarray(picture.resize(cells[::-1], Image.Resampling.BOX), dtype=np.float32) / np.float32(255.0)


def known_films(records: Sequence[Record], boxes: KeptBoxes) -> list[KnownFilm]:
    """The films whose cells can teach: of PNEUMONIA those with boxes, of other labels those the same readers labelled.

    A film without PNEUMONIA is believed to have no opacity anywhere only where its label comes from a label source that
    has drawn boxes: who mined reports for words has not looked at the cells.

    Raises
    ------
    TrainingError
        If no film of PNEUMONIA has a box, or a box does not lie on its film.
    """
    found: list[KnownFilm] = []
    for record in records:
        if record.is_positive and boxes.of(record.name):
            info = record.film_in(record.data()).info
            boxed = boxed_film(boxes, record, info.height, info.width)
            found.append(KnownFilm(record, boxed, info.height, info.width))
    if not found:
        raise TrainingError("--boxes: no training film of PNEUMONIA has a box; train without, or add boxes to the data")
    readers = {film.record.extra.get("label_source") for film in found}
    without = [one for one in records if not one.is_positive and one.extra.get("label_source") in readers]
    return [*found, *(KnownFilm(record, None, 1, 1) for record in without)]


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of n films under one view: maps of features (n, C, h, w), and shares in boxes (n, h, w)."""

    maps: StoredFeatures
    shares: npt.NDArray[np.float32]


def train_head_with_boxes(
    train_views: Sequence[Features],
    train_targets: Targets,
    val_features: Features,
    val_targets: Targets,
    cells: Sequence[Cells],
    settings: BoxSettings,
    *,
    weights: Weighting,
) -> TrainedHead:
    """Train a linear head on labels and boxes.

    Parameters
    ----------
    train_views, train_targets, val_features, val_targets, weights
        As in `cxr_training.fit.head.train_head`; all views count the same in every step.
    cells
        Of the films that are known cell by cell, for each view.

    Raises
    ------
    TrainingError
        If the loss is not a finite number.
    """
    with one_thread():
        return _Training(train_views, train_targets, cells, settings, weights).run(val_features, val_targets)


class _Training:
    def __init__(
        self,
        views: Sequence[Features],
        targets: Targets,
        cells: Sequence[Cells],
        settings: BoxSettings,
        weights: Weighting,
    ) -> None:
        self._mean, self._deviation = standardisation(views[0])
        self._views = [self._standard(view) for view in views]
        self._targets, self._weights = torch.from_numpy(targets), weights
        self._cells, self._settings = cells, settings
        self._contrast = torch.zeros(views[0].shape[1], requires_grad=True)
        # bias, logarithm of the scale, offset
        self._rest = torch.tensor([0.0, 0.0, _OFFSET], requires_grad=True)

    def run(self, val_features: Features, val_targets: Targets) -> TrainedHead:
        val, val_labels = self._standard(val_features), torch.from_numpy(val_targets)
        counts, val_counts = (torch.from_numpy(one) for one in (self._weights.train, self._weights.val))
        history: list[Epoch] = []

        def note(intermediate_result: OptimizeResult) -> None:
            del intermediate_result  # the parameters have its values
            with torch.inference_mode():
                train_loss, train_accuracy = loss_and_accuracy(self._logits(self._views[0]), self._targets, counts)
                val_loss, val_accuracy = loss_and_accuracy(self._logits(val), val_labels, val_counts)
            history.append(Epoch(len(history) + 1, 1.0, train_loss, train_accuracy, val_loss, val_accuracy))
            bar.update()

        start = torch.cat([self._contrast, self._rest]).detach().double().numpy()
        with progress_bar(range(self._settings.epochs), "head with boxes", "step") as bar:
            found = minimize(
                self._loss_at,
                start,
                jac=True,
                method="L-BFGS-B",
                callback=note,
                options={"maxiter": self._settings.epochs, "maxcor": _HISTORY},
            )
        if not (np.isfinite(found.fun) and history):
            raise TrainingError("the loss is no number: a film's features are infinite or NaN")
        self._loss_at(found.x)  # the last values that were tried need not be the best
        weight = self._contrast.detach() / self._deviation
        bias = self._rest[0].detach() - weight @ self._mean
        halves = torch.tensor([-0.5, 0.5])
        return TrainedHead(halves[:, None] * weight, halves * bias, len(history), tuple(history))

    def _standard(self, features: Features) -> torch.Tensor:
        return (torch.from_numpy(features) - self._mean) / self._deviation

    def _logits(self, standard: torch.Tensor) -> torch.Tensor:
        """Of NORMAL and PNEUMONIA, (N, 2): they differ by the contrast and add up to nothing."""
        contrast = standard @ self._contrast + self._rest[0]
        return torch.stack([-contrast / 2.0, contrast / 2.0], dim=1)

    def _loss_at(self, values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        """The loss where the parameters have these values, and its gradient; they keep them."""
        with torch.no_grad():
            self._contrast.copy_(torch.from_numpy(values[: -len(self._rest)]))
            self._rest.copy_(torch.from_numpy(values[-len(self._rest) :]))
        self._contrast.grad = self._rest.grad = None
        loss = self._backward()
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in (self._contrast, self._rest)]
        return loss, torch.cat(gradients).double().numpy()

    def _backward(self) -> float:
        """The loss, with its gradients left in the parameters."""
        # The head has two rows of half the contrast: its penalty is half of that on the contrast.
        total = self._settings.weight_decay / 4.0 * self._contrast.square().sum()
        counts = torch.from_numpy(self._weights.train)
        for view in self._views:
            losses = F.cross_entropy(self._logits(view), self._targets, reduction="none")
            total = total + (losses * counts).sum() / (counts.sum() * len(self._views))
        torch.autograd.backward(total)
        found = total.detach()
        for cells in self._cells:
            films = len(cells.shares)
            for start in range(0, films, _CHUNK):
                part = self._cell_loss(cells, slice(start, start + _CHUNK))
                part = part * (self._settings.weight / (cells.shares.size * len(self._cells)))
                torch.autograd.backward(part)
                found = found + part.detach()
        return float(found)

    def _cell_loss(self, cells: Cells, films: slice) -> torch.Tensor:
        """Sum over the cells of some films."""
        weight = self._contrast / self._deviation
        grid = torch.einsum("bchw,c->bhw", torch.from_numpy(cells.maps[films]), weight) - self._mean @ weight
        logits = self._rest[1].exp() * grid + self._rest[2]
        return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(cells.shares[films]), reduction="sum")
