"""Training beside the well-known tutorial's loop: what a hundred epochs cost, and how good the models are.

Costs are measured on the given films, in turns, each way in batches of its own size and both in exact float32, and
carried on to all films and to a hundred epochs. The results are compared on the same training and test films, at most
some of each source and label.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import ResNet

from benchmarks.host import Host
from benchmarks.peer_handler import tutorial_steps
from benchmarks.result import Column, Figure, Result, Row, Table
from benchmarks.settings import TrainBenchmarkSettings
from benchmarks.steps import in_turn
from cxr.model.classes import CLASSES
from cxr.model.network import features, folded, pool, use_exact_float32
from cxr.model.spec import Preprocessing
from cxr.predict import resolve_device, softmax
from cxr_training.data.groups import groups_of
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Films, Record, load_films
from cxr_training.fit.extraction import BATCH
from cxr_training.fit.features import FeatureCache, View
from cxr_training.fit.head import TrainedHead, train_head
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import TrainSettings
from cxr_training.fit.stages import targets_of
from cxr_training.fit.weights import NORMALISATIONS, ready_to_train, starting_point
from cxr_training.measure.intervals import STANDARD
from cxr_training.measure.metrics import Floats, binary_metrics
from cxr_training.measure.paired import paired_differences

EPOCHS: Final = 100  # of the tutorial
TUTORIAL_BATCH: Final = 256
_RATE: Final = 1e-3  # Adam's default
_DECAY_EVERY: Final = 4
_DECAY: Final = 0.1  # StepLR's default
FIGURES: Final = ("auroc", "sensitivity", "specificity")  # the table has the first of them that a group has
_EXTRACTED: Final = 4  # batches of ours in a round


def _training(settings: TrainBenchmarkSettings) -> TrainSettings:
    """Our training."""
    names = ("weights", "arch", "normalisation", "size", "views", "seed")
    return TrainSettings(**{name: getattr(settings, name) for name in names})


def _preprocessing(settings: TrainBenchmarkSettings) -> Preprocessing:
    """How both trainings prepare films."""
    return dataclasses.replace(NORMALISATIONS[settings.normalisation], size=settings.size)


def benchmark_training(settings: TrainBenchmarkSettings) -> Result:
    """The costs, and with epochs the results as well."""
    host, films, device = Host.here(), load_films(settings.data), resolve_device(settings.device)
    tables = _costs(films, settings, Processes(device))
    if settings.epochs:
        tables.append(_results(films, settings, Processes(device)))
    title = f"{settings.arch}, medians of {settings.rounds} rounds in turn, ms for a film"
    counts = {split: len(films.of(split)) for split in ("train", "val", "test")}
    conditions = {"device": str(device), "threads": torch.get_num_threads(), "counts": counts}
    return Result("train", settings.conditions() | conditions, host, title, tables)


def _costs(films: Films, settings: TrainBenchmarkSettings, processes: Processes) -> list[Table]:
    """Milliseconds for a film in each way, and what follows for all films and epochs."""
    training, preprocessing = _training(settings), _preprocessing(settings)
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

    augmented_view = View(1, training.augmentation, training.seed)
    ways: dict[str, tuple[int, Callable[[Sequence[Record]], object]]] = {
        "tutorial train": (TUTORIAL_BATCH, tutorial.learn),
        "tutorial test": (TUTORIAL_BATCH, tutorial.score),
        "extract plain": (_EXTRACTED * BATCH, lambda records: extract(records, View())),
        "extract augmented": (_EXTRACTED * BATCH, lambda records: extract(records, augmented_view)),
    }
    rng = np.random.default_rng(settings.seed)
    for _, way in ways.values():
        way([train[i] for i in rng.integers(len(train), size=BATCH)])  # warm

    def on_some(name: str) -> None:
        count, way = ways[name]
        way([train[i] for i in rng.permutation(len(train))[:count]])

    times = in_turn({name: partial(on_some, name) for name in ways}, settings.rounds, processes.device)
    per_film = {name: np.array(times[name]) / min(count, len(train)) for name, (count, _) in ways.items()}
    head_of = partial(_head_of, len(train), len(val), start.fc.in_features, training)
    (head_ms,) = in_turn({"head": head_of}, 1, processes.device)["head"]

    epoch_ms = per_film["tutorial train"] * len(train) + per_film["tutorial test"] * len(test)
    theirs = EPOCHS * epoch_ms / 1000
    plain, augmented = per_film["extract plain"], per_film["extract augmented"]
    ours = (plain * (len(train) + len(val)) + augmented * len(train) * settings.views + head_ms) / 1000
    head = Row(f"head, {EPOCHS} epochs, once", {"head_s": Figure(head_ms / 1000, "s")})
    carried = {"tutorial_s": Figure.of(theirs, "s"), "ours_s": Figure.of(ours, "s"), "ratio": Figure.of(theirs / ours)}
    columns = (
        Column("tutorial_s", "{:.0f} s,"),
        Column("ours_s", f"here {{:.0f}} s ({settings.views} augmented views):"),
        Column("ratio", "{:.0f} times as fast ({:.0f} to {:.0f})"),
    )
    carried_on = f"carried on to {len(train)} training films and {EPOCHS} epochs:"
    milliseconds = [Row(name, {"ms": Figure.of(values, "ms")}) for name, values in per_film.items()]
    return [
        Table("cost", [Column("ms", "{:10.2f}")], milliseconds, width=20),
        Table("head", [Column("head_s", "{:8.2f} s")], [head]),
        Table("carried on", columns, [Row("tutorial", carried)], carried_on),
    ]


def _head_of(train: int, val: int, channels: int, settings: TrainSettings) -> TrainedHead:
    """A head for as many films as there are; what it costs does not depend on what is in the features."""
    rng = np.random.default_rng(settings.seed)
    sizes = [train] * (1 + settings.views) + [val]
    *views, val_features = [rng.normal(size=(films, channels)).astype(np.float32) for films in sizes]
    targets = [rng.integers(0, 2, films) for films in (train, val)]
    return train_head(views, targets[0], val_features, targets[1], settings.head)


_RESULT: Final = (
    Column("films", "{:5.0f}", "n"),
    Column("tutorial", "{:9.3f}", "tutorial"),
    Column("ours", "{:7.3f}", "here"),
    Column("difference", " {:+.3f} ({:+.3f} to {:+.3f})", " difference (95 %)"),
)


def _results(films: Films, settings: TrainBenchmarkSettings, processes: Processes) -> Table:
    """Figures of both on the same test films, over all and by group, with paired differences over patients."""
    preprocessing, seed = _preprocessing(settings), settings.seed
    splits = ("train", "val", "test")
    train, val, test = (sample_by_group(films.of(split), settings.films, seed) for split in splits)
    steps = -(-len(films.of("train")) // TUTORIAL_BATCH)
    batch = -(-len(train) // steps)
    ready = ready_to_train(settings.weights, settings.arch, seed, train, preprocessing, processes.device)
    theirs = TutorialRecipe(ready.network, preprocessing, processes, seed).fit(train, test, settings.epochs, batch)
    ours = _fit_ours(ready.network, (train, val, test), settings, processes)
    groups = {"all": np.ones(len(test), dtype=np.bool_), **groups_of(test)}
    targets, patients = targets_of(test), np.array([record.patient_id for record in test])
    rows = []
    for name, inside in groups.items():
        both = (theirs.probabilities[inside], ours.probabilities[inside])
        first, second = ((scores, scores >= 0.5) for scores in both)
        differences = paired_differences(targets[inside], first, second, patients[inside].tolist(), STANDARD)
        label, found = name, {"films": Figure(int(inside.sum())), "positive": Figure(int(targets[inside].sum()))}
        found |= {"epoch tutorial": Figure(theirs.best_epoch), "epoch ours": Figure(ours.best_epoch)}
        tutorial, here = (binary_metrics(targets[inside], scores, 0.5) for scores in both)
        for figure in FIGURES:
            one, first_figure, second_figure = differences[figure], tutorial[figure], here[figure]
            if one.difference is None or first_figure is None or second_figure is None:
                continue  # not defined without films of both labels, or of its own
            values = (Figure(first_figure), Figure(second_figure), Figure(one.difference, "", *(one.ci or ())))
            named = dict(zip(("tutorial", "ours", "difference"), values, strict=True))
            if "tutorial" not in found:
                label, found = name if figure == "auroc" else f"{name} ({figure})", found | named
            found |= {f"{figure} {of}": value for of, value in named.items()}
            found[f"{figure} undefined"] = Figure(one.undefined_resamples, "resamples")
        rows.append(Row(label, found))
    title = (
        f"{len(train)} training and {len(test)} test films; the tutorial's loop for {settings.epochs} epochs\n"
        f"in steps of {batch} films, its rate {rate_of(settings.epochs):.0e} in the last of them; it keeps "
        f"epoch {theirs.best_epoch}, the most accurate on the test films"
    )
    return Table("result", _RESULT, rows, title, "AUROC", 44)


def sample_by_group(records: Sequence[Record], per_group: int, seed: int) -> list[Record]:
    """At most so many films of each source and label, drawn at random, in the order they had."""
    taken: Counter[tuple[str, str]] = Counter()
    keep: list[int] = []
    for i in np.random.default_rng(seed).permutation(len(records)):
        key = (records[i].extra.get("source", ""), records[i].label)
        if taken[key] < per_group:
            taken[key] += 1
            keep.append(int(i))
    return [records[i] for i in sorted(keep)]


def _fit_ours(
    start: ResNet,
    films: tuple[Sequence[Record], Sequence[Record], Sequence[Record]],
    settings: TrainBenchmarkSettings,
    processes: Processes,
) -> Outcome:
    """The test films by a head trained as `pneumoscan train` does, uncalibrated."""
    (train, val, test), training = films, _training(settings)
    with tempfile.TemporaryDirectory(prefix="cxr-") as folder:
        cache = FeatureCache(Path(folder), start, _preprocessing(settings), processes)
        views = [View(number, training.augmentation, training.seed) for number in range(settings.views + 1)]
        stored = [np.array(cache.get(train, view)) for view in views]
        val_features, test_features = (np.array(cache.get(records, View())) for records in (val, test))
    head_settings = dataclasses.replace(training.head, seed=training.seed)
    head = train_head(stored, targets_of(train), val_features, targets_of(val), head_settings)
    logits = torch.from_numpy(test_features) @ head.weight.T + head.bias
    return Outcome(softmax(logits.double().numpy(), 1.0)[:, 1], head.best_epoch)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Probabilities of PNEUMONIA of the test films, (N,), and the epoch whose weights were kept."""

    probabilities: Floats
    best_epoch: int
    test_accuracy: float = float("nan")


def rate_of(epoch: int) -> float:
    """The learning rate in an epoch, counted from 1: the scheduler has been stepped as often as the epoch says."""
    return _RATE * _DECAY ** (epoch // _DECAY_EVERY)


class TutorialRecipe:
    """The well-known tutorial's way to train, for comparison alone: nothing of the product uses it.

    As published with "Building an AI COVID-19 Product Using Transfer Learning in Pytorch" (2020): a frozen ResNet-152
    with a new head and a log-softmax; films resized, turned by up to 20 degrees, mirrored at random; Adam at 1e-3 and
    batches of 256; a scheduler that divides the rate by ten every four epochs and is stepped before the first optimizer
    step of an epoch; the network in training mode, so that the BatchNorm statistics of the frozen part drift; 100
    epochs, in each of which every film is decoded and passed through the whole network again; and the weights kept that
    were the most accurate on the *test* films.

    What is not as published: the network starts from the weights given, with their normalisation; and where there are
    fewer films than the recipe stands for, batches shrink so that an epoch has about as many steps; the
    statistics BatchNorm takes from a batch are then noisier than those of 256 films.
    """

    def __init__(self, start: ResNet, preprocessing: Preprocessing, processes: Processes, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.device = processes.device
        self.network: Any = copy.deepcopy(start)
        for parameter in self.network.parameters():
            parameter.requires_grad = False
        self.network.fc = nn.Sequential(nn.Linear(start.fc.in_features, len(CLASSES)), nn.LogSoftmax(dim=1))
        self.network.to(self.device)
        self.optimizer = torch.optim.Adam(self.network.fc.parameters(), lr=_RATE)
        shape = (preprocessing.size, preprocessing.mean, preprocessing.std)
        self.augmented = tutorial_steps(*shape, transforms.RandomRotation(20), transforms.RandomHorizontalFlip())
        self.plain = tutorial_steps(*shape)

    def fit(self, train: Sequence[Record], test: Sequence[Record], epochs: int, batch_size: int) -> Outcome:
        """Train for some epochs; of the test films' probabilities those of the most accurate epoch are kept."""
        targets = np.array([record.target for record in test])
        best = Outcome(np.full(len(test), 0.5), 0, 0.0)
        for epoch in progress_bar(range(1, epochs + 1), "tutorial", "epoch"):
            order = torch.randperm(len(train)).tolist()
            for group in self.optimizer.param_groups:
                group["lr"] = rate_of(epoch)
            for rows in _in_parts(order, batch_size, "training films"):
                self.learn([train[row] for row in rows])
            parts = _in_parts(range(len(test)), 32, "test")
            probabilities = np.concatenate([self.score([test[row] for row in rows]) for rows in parts])
            accuracy = float(((probabilities > 0.5) == targets).mean())
            if accuracy > best.test_accuracy:
                best = Outcome(probabilities, epoch, accuracy)
        return best

    def learn(self, records: Sequence[Record]) -> None:
        """One step, films decoded again."""
        self.network.train()
        films = torch.stack([self.augmented(picture(record)) for record in records]).to(self.device)
        targets = torch.tensor([record.target for record in records], device=self.device)
        self.optimizer.zero_grad()
        torch.autograd.backward(nn.functional.nll_loss(self.network(films), targets))
        self.optimizer.step()

    def score(self, records: Sequence[Record]) -> Floats:
        """Probabilities of PNEUMONIA, films decoded again."""
        self.network.eval()
        films = torch.stack([self.plain(picture(record)) for record in records]).to(self.device)
        with torch.no_grad():
            found: Floats = self.network(films)[:, 1].exp().double().cpu().numpy()
        return found


def picture(record: Record) -> Image.Image:
    """A film as the tutorial loads it, through Pillow as RGB; what Pillow cannot open is decoded by `cxr`."""
    try:
        with Image.open(record.file) as opened:
            return opened.convert("RGB")
    except UnidentifiedImageError:
        return Image.fromarray(record.read()).convert("RGB")


def _in_parts(rows: Sequence[int], size: int, name: str) -> Iterable[Sequence[int]]:
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    return progress_bar(parts, name, "step")
