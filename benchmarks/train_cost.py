"""What a hundred epochs cost by the well-known tutorial's loop and here, each way in batches of its own size."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from benchmarks import tutorial_recipe
from benchmarks.tutorial_recipe import TutorialRecipe
from cxr.model.network import features, folded, pool, use_exact_float32
from cxr.model.spec import Preprocessing
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Films, Record
from cxr_training.fit.features import BATCH, View
from cxr_training.fit.head import TrainedHead, train_head
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import TrainSettings
from cxr_training.fit.weights import starting_point

_EXTRACTED: Final = 4  # batches of ours in a round


def cost(
    films: Films, settings: TrainSettings, preprocessing: Preprocessing, processes: Processes, rounds: int
) -> dict[str, Any]:
    """Milliseconds for a film in each way, as medians over the rounds, and what follows for all films and epochs."""
    train, val, test = (films.of(split) for split in ("train", "val", "test"))
    start = starting_point(settings.weights, settings.arch, settings.seed).network
    tutorial = TutorialRecipe(start, preprocessing, processes, settings.seed)
    backbone = folded(start).to(processes.device)
    use_exact_float32()

    def extract(records: Sequence[Record], view: View) -> None:
        for first in range(0, len(records), BATCH):
            some = records[first : first + BATCH]
            tensors = torch.stack([view.tensor(record, preprocessing) for record in some])
            on_device = tensors.to(processes.device, memory_format=torch.channels_last)
            with torch.inference_mode():
                pool(features(backbone, on_device)).cpu()

    augmented_view = View(1, settings.augmentation, settings.seed)
    ways: dict[str, tuple[int, Callable[[Sequence[Record]], object]]] = {
        "tutorial_train": (tutorial_recipe.BATCH, tutorial.learn),
        "tutorial_test": (tutorial_recipe.BATCH, tutorial.score),
        "extract_plain": (_EXTRACTED * BATCH, lambda records: extract(records, View())),
        "extract_augmented": (_EXTRACTED * BATCH, lambda records: extract(records, augmented_view)),
    }
    rng = np.random.default_rng(settings.seed)
    for _, way in ways.values():
        way([train[i] for i in rng.integers(len(train), size=BATCH)])  # warm
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in progress_bar(range(rounds), "timing", "round"):
        for name, (count, way) in ways.items():
            records = [train[i] for i in rng.permutation(len(train))[:count]]
            seconds[name].append(_seconds(way, records, processes.device) / len(records))
    head_s = _seconds(lambda _: _head_of(len(train), len(val), start.fc.in_features, settings), [], processes.device)

    per_film = {name: float(np.median(values)) for name, values in seconds.items()}
    theirs = np.array(seconds["tutorial_train"]) * len(train) + np.array(seconds["tutorial_test"]) * len(test)
    plain, augmented = np.array(seconds["extract_plain"]), np.array(seconds["extract_augmented"])
    ours = plain * (len(train) + len(val)) + augmented * len(train) * settings.views + head_s
    ratios = tutorial_recipe.EPOCHS * theirs / ours
    return {
        "rounds": rounds,
        "films": {"train": len(train), "val": len(val), "test": len(test)},
        "views": settings.views,
        "epochs": tutorial_recipe.EPOCHS,
        "ms_per_film": {name: round(1000 * value, 2) for name, value in per_film.items()},
        "head_s": round(head_s, 2),
        "tutorial_s": round(float(np.median(tutorial_recipe.EPOCHS * theirs))),
        "ours_s": round(float(np.median(ours))),
        "ratio": round(float(np.median(ratios)), 1),
        "ratio_range": [round(float(ratios.min()), 1), round(float(ratios.max()), 1)],
    }


def _seconds(way: Callable[[Sequence[Record]], object], records: Sequence[Record], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    way(records)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _head_of(train: int, val: int, channels: int, settings: TrainSettings) -> TrainedHead:
    """A head for as many films as there are; what it costs does not depend on what is in the features."""
    rng = np.random.default_rng(settings.seed)
    sizes = [train] * (1 + settings.views) + [val]
    *views, val_features = [rng.normal(size=(films, channels)).astype(np.float32) for films in sizes]
    targets = [rng.integers(0, 2, films) for films in (train, val)]
    return train_head(views, targets[0], val_features, targets[1], settings.head)
