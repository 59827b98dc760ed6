"""Pictures of a run: what the films look like to the network, how it learnt, how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from cxr.preprocess import to_film
from cxr.spec import CLASSES, Preprocessing
from training.data import Record
from training.engine import Epoch
from training.features import View
from training.metrics import Floats, Targets
from training.runs import write_whole


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)  # no window system is needed, no global state is touched
    write_whole(path, lambda partial: figure.savefig(partial, format="png", dpi=110))


def plot_views(path: Path, records: Sequence[Record], views: Sequence[View], preprocessing: Preprocessing) -> None:
    """A grid of films as the network sees them: a row for each film, a column for each view."""
    shown = list(views)[:6]
    extra = View(1, View().augmentation) if len(shown) < 2 else shown[1]
    shown += [View(n, extra.augmentation, extra.seed) for n in range(len(shown), 5)]
    figure = Figure(figsize=(2.1 * len(shown), 2.3 * len(records)), layout="constrained")
    axes = figure.subplots(len(records), len(shown), squeeze=False)
    for record, row in zip(records, axes, strict=True):
        for view, place in zip(shown, row, strict=True):
            film = to_film(view.tensor(record, preprocessing), preprocessing)
            place.imshow(film, cmap="gray", vmin=0, vmax=255)
            place.set_title(f"{record.label}, plain" if view.number == 0 else f"view {view.number}", fontsize=8)
            place.set_axis_off()
    _save(figure, path)


def plot_history(path: Path, history: Sequence[Epoch], best_epoch: int) -> None:
    """Loss and accuracy over the epochs, the kept epoch marked."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    left.plot(epochs, [epoch.train_loss for epoch in history], label="train")
    left.plot(epochs, [epoch.val_loss for epoch in history], label="validation")
    right.plot(epochs, [epoch.train_accuracy for epoch in history], label="train")
    right.plot(epochs, [epoch.val_accuracy for epoch in history], label="validation")
    for axes, name in ((left, "log loss"), (right, "accuracy")):
        axes.axvline(best_epoch, color="grey", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
    _save(figure, path)


def plot_roc(path: Path, targets: Targets, probabilities: Floats, threshold: float) -> None:
    """The ROC curve with the operating point on it; both classes have to be there."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axes = figure.subplots()
    false_positive, true_positive, _ = roc_curve(targets, probabilities)
    axes.plot(false_positive, true_positive, label=f"AUROC {roc_auc_score(targets, probabilities):.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    called = probabilities >= threshold
    axes.plot(called[targets == 0].mean(), called[targets == 1].mean(), "o", label=f"threshold {threshold:.3f}")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def plot_reliability(path: Path, targets: Targets, probabilities: Floats) -> None:
    """Frequency of PNEUMONIA over its stated probability, in ten bins of equal width."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axes = figure.subplots()
    frequency, stated = calibration_curve(targets, probabilities, n_bins=10)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    axes.plot(stated, frequency, "o-", label="model")
    axes.set_xlabel("stated probability of PNEUMONIA")
    axes.set_ylabel("frequency of PNEUMONIA")
    axes.legend(frameon=False, loc="upper left")
    _save(figure, path)


def plot_confusion(path: Path, targets: Targets, probabilities: Floats, threshold: float) -> None:
    """Counts of films by true and by called class."""
    figure = Figure(figsize=(4.0, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = confusion_matrix(targets, (probabilities >= threshold).astype(np.int64), labels=[0, 1])
    axes.imshow(counts, cmap="Blues", vmin=0)
    for row in range(2):
        for column in range(2):
            dark = counts[row, column] > counts.max() / 2
            colour = "white" if dark else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=14)
    axes.set_xticks([0, 1], CLASSES)
    axes.set_yticks([0, 1], CLASSES, rotation=90, va="center")
    axes.set_xlabel("called")
    axes.set_ylabel("true")
    _save(figure, path)
