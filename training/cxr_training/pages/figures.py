"""Pictures of a run: what the films look like to the network, how it learnt, how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from cxr.model.classes import STANDARD, Scheme
from cxr.model.preprocess import to_film
from cxr.model.spec import Preprocessing
from cxr_training.data.records import Record
from cxr_training.fit.features import View
from cxr_training.fit.head import Epoch
from cxr_training.measure.curves import Band, Bin
from cxr_training.measure.metrics import Floats, Targets
from pneumoscan.files import write_whole

_SQUARE: Final = (4.8, 4.6)  # inches


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
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
    save(figure, path)


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
    save(figure, path)


def plot_roc(
    path: Path, targets: Targets, probabilities: Floats, threshold: float, label: str, band: Band | None
) -> None:
    """The ROC curve with its band and the operating point on it; both classes have to be there.

    Parameters
    ----------
    label
        The area with its interval, for the legend.
    """
    figure = Figure(figsize=_SQUARE, layout="constrained")
    axes = figure.subplots()
    _fill(axes, band)
    false_positive, true_positive, _ = roc_curve(targets, probabilities)
    axes.plot(false_positive, true_positive, label=label)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    called = probabilities >= threshold
    place = (called[targets == 0].mean(), called[targets == 1].mean())
    axes.plot(*place, "o", color="black", label=f"threshold {threshold:.3f}")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.legend(loc="lower right", fontsize=8)
    save(figure, path)


def plot_precision(
    path: Path, targets: Targets, probabilities: Floats, threshold: float, label: str, band: Band | None
) -> None:
    """Precision (PPV) over recall (sensitivity) with its band, as `plot_roc` does."""
    figure = Figure(figsize=_SQUARE, layout="constrained")
    axes = figure.subplots()
    _fill(axes, band)
    precision, recall, _ = precision_recall_curve(targets, probabilities)
    axes.step(recall, precision, where="post", label=label)
    prevalence = targets.mean()
    axes.axhline(prevalence, color="grey", linestyle=":", label=f"chance: prevalence {prevalence:.3f}")
    called = probabilities >= threshold
    if called.any():
        place = (called[targets == 1].mean(), targets[called].mean())
        axes.plot(*place, "o", color="black", label=f"threshold {threshold:.3f}")
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel("recall (sensitivity)")
    axes.set_ylabel("precision (PPV)")
    axes.legend(loc="lower left", fontsize=8)
    save(figure, path)


def _fill(axes: Axes, band: Band | None) -> None:
    if band is not None:
        axes.fill_between(band.grid, band.low, band.high, alpha=0.25, linewidth=0, label="95 % of resamples")


def plot_reliability(
    path: Path,
    targets: Targets,
    probabilities: Floats,
    threshold: float,
    bins: Sequence[Bin],
    scheme: Scheme = STANDARD,
) -> None:
    """Frequency of the positive group over its probability with intervals; below, how many films were told which."""
    figure = Figure(figsize=(_SQUARE[0], 5.6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    stated, frequency = [one.stated for one in bins], [one.frequency for one in bins]
    axes.plot(stated, frequency, "o-", linewidth=1, label="model, 95 % interval")
    for one in bins:
        axes.plot([one.stated] * 2, one.interval, color="C0", linewidth=1.5)
    positive, negative = scheme.words
    axes.set_ylabel(f"frequency of {positive}")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8)
    edges = np.linspace(0, 1, 21).tolist()
    sides = [probabilities[targets == 0], probabilities[targets == 1]]
    below.hist(sides, edges, stacked=True, color=["C0", "C1"], label=[negative, positive])
    below.axvline(threshold, color="black", linewidth=1, linestyle="--", label="threshold")
    below.set_xlim(-0.03, 1.03)
    below.set_xlabel(f"stated probability of {positive}")
    below.set_ylabel("films")
    below.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
    save(figure, path)


def plot_confusion(path: Path, targets: Targets, called: Targets, threshold: float, scheme: Scheme = STANDARD) -> None:
    """Films by true and by called class, (N,) indices each: counts, and shares of the true class."""
    classes = range(len(scheme.classes))
    figure = Figure(figsize=(2.2 + 1.1 * len(classes), 1.7 + 1.1 * len(classes)), layout="constrained")
    axes = figure.subplots()
    counts = confusion_matrix(targets, called, labels=[*classes])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in classes:
        for column in classes:
            share = shares[row, column]
            words = f"{counts[row, column]}\n{100 * share:.1f} %"
            axes.text(
                column, row, words, ha="center", va="center", color="white" if share > 0.5 else "black", fontsize=14
            )
    axes.set_xticks([*classes], scheme.classes)
    axes.set_yticks([*classes], scheme.classes, rotation=90, va="center")
    axes.set_xlabel(f"called, at {threshold:.3f} and above {scheme.words[0]}")
    axes.set_ylabel("true")
    save(figure, path)
