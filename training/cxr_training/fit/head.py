"""The training loop: a head on the features of a frozen backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from cxr_training.fit.feature_rows import Features
from cxr_training.fit.settings import HeadSettings

Targets = npt.NDArray[np.int64]

_STEPS_AT_LEAST: Final = 20


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much each film counts, as `cxr_training.fit.head.film_weights` gives it: (N,) for train, (M,) for validation.

    The mean is 1, so a step divides by its number of films: divided by its own sum of weights, a step without any film
    of a rare group would count for the others in full, and the rare group would get less than its share.
    """

    train: Weights
    val: Weights

    @classmethod
    def even(cls, train: int, val: int) -> Weighting:
        """Every film counts the same."""
        return cls(np.ones(train, dtype=np.float32), np.ones(val, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch measured, on unaugmented films and in evaluation mode."""

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """The head of the best epoch: `weight` (K, C) and `bias` (K,) on raw features, and the whole history."""

    weight: torch.Tensor
    bias: torch.Tensor
    best_epoch: int
    history: tuple[Epoch, ...]


def train_head(
    train_views: Sequence[Features],
    train_targets: Targets,
    val_features: Features,
    val_targets: Targets,
    settings: HeadSettings,
    *,
    weights: Weighting | None = None,
) -> TrainedHead:
    """Train a linear head and keep the weights of the epoch with the lowest loss on validation.

    The features are standardised on the training films, which lets one learning rate suit all of them; the result is
    folded back, so that the head is a plain linear layer on raw features.

    Parameters
    ----------
    train_views
        Features of the training films, (N, C) for each view; the first is the unaugmented one. In every epoch each
        film is seen once, under a view drawn at random.
    train_targets, val_targets
        Class indices, (N,) and (M,); the highest class is in one of them.
    val_features
        (M, C), unaugmented.
    weights
        How much each film counts; all the same by default.

    Raises
    ------
    TrainingError
        If the loss is never a finite number.
    """
    weights = weights or Weighting.even(len(train_targets), len(val_targets))
    with one_thread():
        return _train_head(train_views, train_targets, val_features, val_targets, settings, weights)


def _train_head(
    train_views: Sequence[Features],
    train_targets: Targets,
    val_features: Features,
    val_targets: Targets,
    settings: HeadSettings,
    weights: Weighting,
) -> TrainedHead:
    generator = torch.Generator().manual_seed(settings.seed)
    mean, deviation = standardisation(train_views[0])
    views = torch.stack([(torch.from_numpy(view) - mean) / deviation for view in train_views])
    val = (torch.from_numpy(val_features) - mean) / deviation
    targets, val_labels = torch.from_numpy(train_targets), torch.from_numpy(val_targets)
    counts, val_counts = torch.from_numpy(weights.train), torch.from_numpy(weights.val)
    films = len(targets)
    batch_size = max(1, min(settings.batch_size, films // _STEPS_AT_LEAST))

    head = nn.Linear(views.shape[2], 1 + int(max(train_targets.max(), val_targets.max())))
    with torch.no_grad():
        head.weight.normal_(0.0, 1e-3, generator=generator)
        head.bias.zero_()
    optimizer = torch.optim.Adam(
        [
            {"params": [head.weight], "weight_decay": settings.weight_decay},
            {"params": [head.bias], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )
    scheduler = StepLR(optimizer, step_size=max(1, -(-settings.epochs // 3)), gamma=settings.gamma)

    history: list[Epoch] = []
    best_loss, best = float("inf"), (0, head.weight.detach().clone(), head.bias.detach().clone())
    for number in progress_bar(range(1, settings.epochs + 1), "head", "epoch"):
        learning_rate = float(optimizer.param_groups[0]["lr"])
        head.train()
        view = torch.randint(len(views), (films,), generator=generator)
        for rows in torch.split(torch.randperm(films, generator=generator), batch_size):
            optimizer.zero_grad(set_to_none=True)
            losses = nn.functional.cross_entropy(head(views[view[rows], rows]), targets[rows], reduction="none")
            torch.autograd.backward((losses * counts[rows]).mean())
            optimizer.step()
        scheduler.step()
        head.eval()
        with torch.inference_mode():
            train_loss, train_accuracy = loss_and_accuracy(head(views[0]), targets, counts)
            val_loss, val_accuracy = loss_and_accuracy(head(val), val_labels, val_counts)
        history.append(Epoch(number, learning_rate, train_loss, train_accuracy, val_loss, val_accuracy))
        if val_loss < best_loss:
            best_loss, best = val_loss, (number, head.weight.detach().clone(), head.bias.detach().clone())

    best_epoch, weight, bias = best
    if not best_epoch:
        raise TrainingError("the loss was never a number: a film's features are infinite or NaN, or the rate too high")
    # What all classes have in common tells nothing of any: without it the map of one of two is half the contrast.
    weight, bias = (weight - weight.mean(dim=0)) / deviation, bias - bias.mean()
    return TrainedHead(weight, bias - weight @ mean, best_epoch, tuple(history))


@contextmanager
def one_thread() -> Iterator[None]:
    """Steps this small spend their time waiting for other threads; one thread is also the same on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def standardisation(features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each feature, 1 for one that never changes."""
    mean = torch.from_numpy(features.mean(axis=0))
    deviation = torch.from_numpy(features.std(axis=0))
    return mean, torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))


def weighted_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy, each film counting by its weight: (B, K), (B,) and (B,)."""
    return (nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()


def loss_and_accuracy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> tuple[float, float]:
    """Weighted loss and plain accuracy of some films."""
    accuracy = (logits.argmax(dim=1) == targets).float().mean()
    return float(weighted_loss(logits, targets, weights)), float(accuracy)


def format_elapsed(seconds: float) -> str:
    """A duration as people say it: ``7.4 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


BALANCES: Final = ("none", "class", "source")
NO_LABEL_WEIGHTS: Final[Mapping[str, float]] = {}
_LABEL_MARKS: Final = {
    "radiologist": ("radiologist",),
    "physician": ("physician", "doctor"),
    "pcr": ("pcr",),
    "text-mined": ("nlp", "mined", "text"),
}

Weights = npt.NDArray[np.float32]


def label_kind(label_source: str) -> str:
    """Who gave a label, a key of `cxr_training.fit.settings.LABEL_WEIGHTS`; empty where the text does not say."""
    words = label_source.lower()
    return next((kind for kind, marks in _LABEL_MARKS.items() if any(mark in words for mark in marks)), "")


def film_weights(
    records: Sequence[Record], balance: str, label_weights: Mapping[str, float] = NO_LABEL_WEIGHTS
) -> Weights:
    """A weight for each film, (N,) with a mean of 1.

    Parameters
    ----------
    label_weights
        How much a label counts by who gave it, whatever its class, so that probabilities stay those of each source.
    balance
        ``none``
            Every film counts the same.
        ``class``
            The films of each class weigh the same together.
        ``source``
            The same, and within a class the films of each source weigh the same together: a large collection of one
            kind of patients does not drown a small one of another kind. A source that has films of one class alone
            still tells the class by its look.

    Raises
    ------
    TrainingError
        If sources are to be balanced and no film has one.
    """
    if balance == "source" and not any(record.extra.get("source") for record in records):
        raise TrainingError("--balance source needs films with a source: give the manifest that column, or take class")
    trust = np.array([label_weights.get(label_kind(one.extra.get("label_source") or ""), 1.0) for one in records])
    if balance == "none":
        return np.asarray(trust / trust.mean(), dtype=np.float32)
    keys = [(record.label, record.extra.get("source", "") if balance == "source" else "") for record in records]
    films = Counter(keys)
    groups = Counter(label for label, _ in films)
    share = [1.0 / (len(groups) * groups[label] * films[label, source]) for label, source in keys]
    weights = np.array(share) * trust
    return np.asarray(weights / weights.mean(), dtype=np.float32)
