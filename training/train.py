"""Fine-tune a ResNet on a data folder: frozen backbone, new two-class head, the best epoch on validation kept.

The test split is not opened here. Everything the result depends on is in `run.json`.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from cxr.model import ARCHITECTURES
from cxr.predict import resolve_device
from cxr.spec import CLASSES, SPEC_FILE
from training.augment import Augmentation
from training.command import run_command
from training.data import Films, Record, load_films
from training.engine import Epoch, HeadSettings, Targets, TrainedHead, format_elapsed, train_head
from training.errors import TrainingError
from training.features import FeatureCache, View, backbone_digest
from training.figures import plot_history, plot_views
from training.runs import CALIBRATION, CHECKPOINT, RUN_FILE, RunRecord, write_text, write_whole
from training.settings import TrainSettings, holds_run
from training.weights import NORMALISATIONS, THREE_WAYS, StartingPoint, reestimate_batchnorm, starting_point

_BATCHNORM_FILMS = 128  # enough for statistics of one number a channel


def train(
    films: Films,
    run: Path,
    settings: TrainSettings,
    *,
    cache: Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> RunRecord:
    """Train a head and leave a run folder.

    Parameters
    ----------
    films
        Only the splits train and val are read.
    run
        The folder for the results; files of an earlier run in it are replaced.
    cache
        Where features are kept between runs; beside the run by default.
    device
        Where the backbone runs: ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    TrainingError
        If a split lacks a class, a film cannot be read, or the starting weights cannot be had.
    """
    started = time.monotonic()
    train_films, val_films = films.of("train"), films.of("val")
    where = resolve_device(device)
    preprocessing = dataclasses.replace(NORMALISATIONS[settings.normalisation], size=settings.size)
    start = _starting_point(settings)
    run.mkdir(parents=True, exist_ok=True)
    if start.pretrained == "random":
        chosen = np.random.default_rng(settings.seed).permutation(len(train_films))[:_BATCHNORM_FILMS]
        some = [train_films[i] for i in chosen]
        reestimate_batchnorm(start.network, some, preprocessing, where, progress=progress)

    for stale in (RUN_FILE, CHECKPOINT, CALIBRATION, SPEC_FILE, "metrics.json"):  # what names the older weights
        (run / stale).unlink(missing_ok=True)
    views = [View(number, settings.augmentation, settings.seed) for number in range(settings.views + 1)]
    shown = [film for name in CLASSES for film in [one for one in train_films if one.label == name][:2]]
    plot_views(run / "augmentations.png", shown, views, preprocessing)

    features = FeatureCache(cache or run.parent / ".features", start.network, preprocessing, where)
    train_features = [features.get(train_films, view, progress=progress) for view in views]
    val_features = features.get(val_films, View(), progress=progress)
    head = train_head(
        train_features,
        _targets(train_films),
        val_features,
        _targets(val_films),
        dataclasses.replace(settings.head, seed=settings.seed),
        progress=progress,
    )
    elapsed = time.monotonic() - started
    record = RunRecord(
        arch=settings.arch,
        pretrained=start.pretrained,
        preprocessing=preprocessing,
        data_sha256=films.digest(),
        settings=settings.as_json(),
        result={
            "best_epoch": head.best_epoch,
            "backbone_sha256": backbone_digest(start.network),
            "films": {"train": len(train_films), "val": len(val_films)},
            **{k: v for k, v in dataclasses.asdict(head.history[head.best_epoch - 1]).items() if k != "epoch"},
            "elapsed_s": round(elapsed, 1),
        },
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        },
    )
    _write(run, start, head, record)
    return record


def _starting_point(settings: TrainSettings) -> StartingPoint:
    try:
        return starting_point(settings.weights, settings.arch, settings.seed)
    except TrainingError as error:
        if not (settings.or_random and settings.weights == "imagenet"):
            raise
        print(
            f"WARNING: {error}\nWARNING: going on with RANDOM weights, as asked by --or-random. The model shows that "
            "everything works; its answers are worth little.",
            file=sys.stderr,
        )
        return starting_point("random", settings.arch, settings.seed)


def _targets(records: Sequence[Record]) -> Targets:
    return np.array([record.target for record in records], dtype=np.int64)


def _write(run: Path, start: StartingPoint, head: TrainedHead, record: RunRecord) -> None:
    """The checkpoint first, `run.json` last: a run folder with a record is whole."""
    with torch.no_grad():
        start.network.fc.weight.copy_(head.weight)
        start.network.fc.bias.copy_(head.bias)
    state = {name: tensor.cpu() for name, tensor in start.network.state_dict().items()}
    write_whole(run / CHECKPOINT, lambda path: torch.save(state, path))
    write_whole(run / "history.csv", lambda path: _write_history(path, head.history))
    plot_history(run / "history.png", head.history, head.best_epoch)
    write_text(run / RUN_FILE, record.to_json())


def _write_history(path: Path, history: Sequence[Epoch]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in dataclasses.fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(epoch) for epoch in history)


def _command(arguments: argparse.Namespace) -> None:
    settings = TrainSettings(
        weights=arguments.weights,
        arch=arguments.arch,
        normalisation=arguments.normalisation,
        size=arguments.size,
        trainable=arguments.trainable,
        views=arguments.views,
        augmentation=Augmentation(max_degrees=arguments.max_degrees, flip=arguments.flip),
        head=HeadSettings(epochs=arguments.epochs, learning_rate=arguments.learning_rate),
        seed=arguments.seed,
        or_random=arguments.or_random,
    )
    films = load_films(arguments.data)
    if (arguments.run / RUN_FILE).is_file() and not arguments.force:
        if arguments.resume and holds_run(arguments.run, settings, films):
            print(f"{arguments.run} already holds this run.")
            return
        raise TrainingError(f"{arguments.run} already holds a run: choose another --run, or replace it with --force")
    record = train(films, arguments.run, settings, cache=arguments.cache, device=arguments.device)
    result = record.result
    print(
        f"{arguments.run}: {record.arch} from {record.pretrained} weights, best epoch {result['best_epoch']} of "
        f"{settings.head.epochs}, validation loss {result['val_loss']:.4f}, accuracy {result['val_accuracy']:.3f}, "
        f"in {format_elapsed(result['elapsed_s'])}"
    )


def _at_least(lowest: int) -> Any:
    def number(text: str) -> int:
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} is below {lowest}")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    head, augmentation = HeadSettings(), Augmentation()
    parser = argparse.ArgumentParser(prog="training.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a manifest.csv or train|val|test/CLASS/*")
    parser.add_argument("--run", type=Path, required=True, help="folder for the results, e.g. runs/first")
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|random|FILE", help=f"{THREE_WAYS}")
    parser.add_argument("--arch", default="resnet152", choices=list(ARCHITECTURES))
    parser.add_argument(
        "--normalisation",
        default="imagenet",
        choices=list(NORMALISATIONS),
        help="how the starting weights saw pictures: ImageNet mean and deviation, or grey values in 0-1 as they are",
    )
    parser.add_argument("--size", type=_at_least(32), default=224, help="side of the network's input, pixels")
    parser.add_argument("--trainable", default="head", choices=["head"], help="what is trained; the rest is frozen")
    parser.add_argument("--epochs", type=_at_least(1), default=head.epochs)
    parser.add_argument("--learning-rate", type=float, default=head.learning_rate)
    parser.add_argument("--views", type=_at_least(0), default=1, help="augmented views of each film (default 1)")
    parser.add_argument("--max-degrees", type=float, default=augmentation.max_degrees, help="rotation, both ways")
    parser.add_argument("--flip", action="store_true", help="also mirror films; moves the heart to the other side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--cache", type=Path, help="folder of stored features (default: .features beside the run)")
    parser.add_argument("--or-random", action="store_true", help="without ImageNet weights go on with random ones")
    parser.add_argument("--resume", action="store_true", help="go on with this run; features already there are kept")
    parser.add_argument("--force", action="store_true", help="replace the run in the folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_command(_parser(), _command, argv)


if __name__ == "__main__":
    sys.exit(main())
