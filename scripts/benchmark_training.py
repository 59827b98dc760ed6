"""Training beside the well-known tutorial's loop: what a hundred epochs cost, and how good the result is.

Costs are measured on the given films, in turns, each way in batches of its own size and both in exact float32, and
carried on to all films and to a hundred epochs. The results are compared on the same training and test films, at most
some of each source and label.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torchvision.models.resnet import ResNet
from tqdm import tqdm

from cxr.model import features, folded, pool, use_exact_float32
from cxr.predict import softmax
from cxr.spec import Preprocessing
from scripts import tutorial_recipe
from scripts.benchmark_raw import machine
from scripts.tutorial_recipe import TutorialRecipe
from training.data import Films, Record
from training.depths import BATCH
from training.engine import TrainedHead, train_head
from training.features import FeatureCache, View
from training.fit import targets_of
from training.groups import groups_of
from training.intervals import STANDARD
from training.metrics import Floats, Targets, binary_metrics
from training.paired import paired_differences
from training.processes import Processes
from training.settings import TrainSettings
from training.weights import NORMALISATIONS, ready_to_train, starting_point

_EXTRACTED: Final = 4  # batches of ours in a round
_FIGURES: Final = ("auroc", "sensitivity", "specificity")  # shown is the first that a group has


def benchmark_training(
    films: Films, settings: TrainSettings, device: torch.device, *, rounds: int, epochs: int, per_group: int
) -> dict[str, Any]:
    """Both parts, as JSON values.

    Parameters
    ----------
    settings
        Of our training; the head alone is trained.
    rounds
        Of timing, each of one batch in every way.
    epochs
        Of the tutorial's loop in the comparison of results; 0 leaves that part out.
    per_group
        Films of each source and label in a split, at most, in the comparison of results.
    """
    preprocessing = dataclasses.replace(NORMALISATIONS[settings.normalisation], size=settings.size)
    processes = Processes(device)
    result: dict[str, Any] = {
        "machine": machine(device),
        "arch": settings.arch,
        "cost": _cost(films, settings, preprocessing, processes, rounds),
    }
    if epochs:
        result["result"] = _result(films, settings, preprocessing, processes, epochs, per_group)
    return result


def _cost(
    films: Films, settings: TrainSettings, preprocessing: Preprocessing, processes: Processes, rounds: int
) -> dict[str, Any]:
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
    for _ in tqdm(range(rounds), desc="timing", unit="round", leave=False):
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
    return train_head(views, targets[0], val_features, targets[1], settings.head, progress=False)


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


def _result(
    films: Films,
    settings: TrainSettings,
    preprocessing: Preprocessing,
    processes: Processes,
    epochs: int,
    per_group: int,
) -> dict[str, Any]:
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
            **{figure: dataclasses.asdict(found[figure]) for figure in _FIGURES},
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
    return {name: found[name] for name in _FIGURES}


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
    head = train_head(stored, targets_of(train), val_features, targets_of(val), head_settings, progress=False)
    logits = torch.from_numpy(test_features) @ head.weight.T + head.bias
    return softmax(logits.double().numpy(), 1.0)[:, 1], head.best_epoch


def table_of(result: dict[str, Any]) -> str:
    """Both parts as text."""
    cost = result["cost"]
    lines = [
        f"{result['arch']}, medians of {cost['rounds']} rounds in turn, ms for a film",
        *(f"  {name.replace('_', ' '):20s} {value:10.2f}" for name, value in cost["ms_per_film"].items()),
        f"  head, {cost['epochs']} epochs, once {cost['head_s']:8.2f} s",
        f"carried on to {cost['films']['train']} training films and {cost['epochs']} epochs:",
        f"  tutorial {cost['tutorial_s']} s, here {cost['ours_s']} s ({cost['views']} augmented views): "
        f"{cost['ratio']:.0f} times as fast ({cost['ratio_range'][0]:.0f} to {cost['ratio_range'][1]:.0f})",
    ]
    if "result" not in result:
        return "\n".join(lines)
    found = result["result"]
    films, theirs = found["films"], found["tutorial"]
    lines += [
        f"{films['train']} training and {films['test']} test films; the tutorial's loop for {theirs['epochs']} epochs",
        f"in steps of {theirs['batch_size']} films, its rate {theirs['last_rate']:.0e} in the last of them; it keeps "
        f"epoch {theirs['kept_epoch']}, the most accurate on the test films",
        f"  {'AUROC':44s} {'n':>5s} {'tutorial':>9s} {'here':>7s}  difference (95 %)",
    ]
    for name, row in found["groups"].items():
        figure = next(name for name in _FIGURES if row["tutorial"][name] is not None)
        label = name if figure == "auroc" else f"{name} ({figure})"
        difference = row[figure]
        between = "-" if difference["ci"] is None else f"{difference['ci'][0]:+.3f} to {difference['ci'][1]:+.3f}"
        lines.append(
            f"  {label:44s} {row['films']:5d} {row['tutorial'][figure]:9.3f} {row['ours'][figure]:7.3f}  "
            f"{difference['difference']:+.3f} ({between})"
        )
    return "\n".join(lines)
