"""How good the models of the well-known tutorial's loop and of our training are, from the same films."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torchvision.models.resnet import ResNet

from benchmarks import tutorial_recipe
from benchmarks.tutorial_recipe import TutorialRecipe
from cxr.model.spec import Preprocessing
from cxr.predict import softmax
from cxr_training.data.groups import groups_of
from cxr_training.data.records import Films, Record
from cxr_training.fit.features import FeatureCache, View
from cxr_training.fit.head import train_head
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import TrainSettings
from cxr_training.fit.stages import targets_of
from cxr_training.fit.weights import ready_to_train
from cxr_training.measure.intervals import STANDARD
from cxr_training.measure.metrics import Floats, Targets, binary_metrics
from cxr_training.measure.paired import paired_differences

FIGURES: Final = ("auroc", "sensitivity", "specificity")  # shown is the first that a group has


def chosen(records: Sequence[Record], per_group: int, seed: int) -> list[Record]:
    """At most so many films of each source and label, drawn at random, in the order they had."""
    taken: Counter[tuple[str, str]] = Counter()
    keep: list[int] = []
    for i in np.random.default_rng(seed).permutation(len(records)):
        key = (records[i].extra.get("source", ""), records[i].label)
        if taken[key] < per_group:
            taken[key] += 1
            keep.append(int(i))
    return [records[i] for i in sorted(keep)]


def result(
    films: Films,
    settings: TrainSettings,
    preprocessing: Preprocessing,
    processes: Processes,
    epochs: int,
    per_group: int,
) -> dict[str, Any]:
    """Figures of both on the same test films, over all and by group, with paired differences over patients."""
    train, val, test = (chosen(films.of(split), per_group, settings.seed) for split in ("train", "val", "test"))
    steps = -(-len(films.of("train")) // tutorial_recipe.BATCH)
    batch = -(-len(train) // steps)
    start = ready_to_train(
        settings.weights, settings.arch, settings.seed, train, preprocessing, processes.device
    ).network
    tutorial = TutorialRecipe(start, preprocessing, processes, settings.seed)
    theirs = tutorial.fit(train, test, epochs, batch)
    ours, best_epoch = _ours(start, (train, val, test), settings, preprocessing, processes)
    groups = {"all": np.ones(len(test), dtype=np.bool_), **groups_of(test)}
    targets, patients = targets_of(test), np.array([record.patient_id for record in test])
    rows: dict[str, Any] = {}
    for name, inside in groups.items():
        one, two = ((scores[inside], scores[inside] >= 0.5) for scores in (theirs.probabilities, ours))
        found = paired_differences(targets[inside], one, two, patients[inside].tolist(), STANDARD)
        rows[name] = {
            "films": int(inside.sum()),
            "positive": int(targets[inside].sum()),
            "tutorial": _figures(targets[inside], one[0]),
            "ours": _figures(targets[inside], two[0]),
            **{figure: dataclasses.asdict(found[figure]) for figure in FIGURES},
        }
    return {
        "films": {"train": len(train), "val": len(val), "test": len(test)},
        "tutorial": {
            "epochs": epochs,
            "batch_size": batch,
            "kept_epoch": theirs.best_epoch,
            "last_rate": tutorial_recipe.rate_of(epochs),
        },
        "ours": {"views": settings.views, "best_epoch": best_epoch},
        "groups": rows,
    }


def _figures(targets: Targets, probabilities: Floats) -> dict[str, float | None]:
    found = binary_metrics(targets, probabilities, 0.5)
    return {name: found[name] for name in FIGURES}


def _ours(
    start: ResNet,
    films: tuple[Sequence[Record], Sequence[Record], Sequence[Record]],
    settings: TrainSettings,
    preprocessing: Preprocessing,
    processes: Processes,
) -> tuple[Floats, int]:
    """Probabilities of the test films by a head trained as `training.train` does, uncalibrated."""
    train, val, test = films
    with tempfile.TemporaryDirectory(prefix="cxr-") as folder:
        cache = FeatureCache(Path(folder), start, preprocessing, processes)
        views = [View(number, settings.augmentation, settings.seed) for number in range(settings.views + 1)]
        stored = [np.array(cache.get(train, view)) for view in views]
        val_features, test_features = (np.array(cache.get(records, View())) for records in (val, test))
    head_settings = dataclasses.replace(settings.head, seed=settings.seed)
    head = train_head(stored, targets_of(train), val_features, targets_of(val), head_settings)
    logits = torch.from_numpy(test_features) @ head.weight.T + head.bias
    return softmax(logits.double().numpy(), 1.0)[:, 1], head.best_epoch
