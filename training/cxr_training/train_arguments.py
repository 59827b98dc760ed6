"""The command line of `training.train`, and the settings it asks for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from cxr.model.network import ARCHITECTURES
from cxr.model.spec import DECODES
from cxr_training.errors import TrainingError
from cxr_training.fit.augment import Augmentation
from cxr_training.fit.head import BALANCES, HeadSettings
from cxr_training.fit.settings import TrainSettings
from cxr_training.fit.tracking import TRACKERS
from cxr_training.fit.tune import PRECISIONS, TUNED, TuneSettings
from cxr_training.fit.weights import NORMALISATIONS, THREE_WAYS

SAVE_EVERY_S: Final = 300.0


def settings_of(arguments: argparse.Namespace) -> TrainSettings:
    """The settings; ``--epochs`` and ``--learning-rate`` are those of what is trained last.

    Raises
    ------
    TrainingError
        If an option is given that would not be used.
    """
    given = {
        name: value
        for name, value in (("epochs", arguments.epochs), ("learning_rate", arguments.learning_rate))
        if value is not None
    }
    only_head = arguments.trainable == "head"
    below = {
        name: value
        for name in ("batch_size", "patience", "layer_decay", "precision")
        if (value := getattr(arguments, name)) is not None
    }
    if only_head and (below or arguments.save_every is not None):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in below or ["save_every"])
        raise TrainingError(f"{options}: only with --trainable layer4 or all; the head is trained without it")
    return TrainSettings(
        weights=arguments.weights,
        arch=arguments.arch,
        normalisation=arguments.normalisation,
        size=arguments.size,
        decode=arguments.decode,
        trainable=arguments.trainable,
        views=arguments.views,
        augmentation=Augmentation(max_degrees=arguments.max_degrees, flip=arguments.flip),
        head=HeadSettings(**given) if only_head else HeadSettings(),
        tuning=TuneSettings(
            **({} if only_head else given),
            **below,
        ),
        balance=arguments.balance,
        seed=arguments.seed,
        or_random=arguments.or_random,
    )


def parser_of_train(description: str | None) -> argparse.ArgumentParser:
    """The command line."""
    head, tuning, augmentation = HeadSettings(), TuneSettings(), Augmentation()
    parser = argparse.ArgumentParser(prog="training.train", description=description)
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
    parser.add_argument(
        "--decode",
        default="reduced",
        choices=list(DECODES),
        help="reduced: large films come at least twice as large as the network's input, several times as fast; exact: "
        "every pixel is decoded. Serving does as training did (default %(default)s)",
    )
    parser.add_argument(
        "--trainable",
        default="head",
        choices=["head", *TUNED],
        help="what is trained: the head on stored features, layer4 and head on the stored output of layer3, or all",
    )
    parser.add_argument(
        "--epochs",
        type=_at_least(1),
        help=f"passes over the films (default {head.epochs}; layer4 and all: at most {tuning.epochs} after the head)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        help=f"default {head.learning_rate:g}; with layer4 or all {tuning.learning_rate:g}, of the head",
    )
    parser.add_argument("--views", type=_at_least(0), default=1, help="stored augmented views of each film (default 1)")
    parser.add_argument("--max-degrees", type=float, default=augmentation.max_degrees, help="rotation, both ways")
    parser.add_argument("--flip", action="store_true", help="also mirror films; moves the heart to the other side")
    parser.add_argument(
        "--balance",
        default="none",
        choices=BALANCES,
        help="let classes, or sources and classes, weigh the same however many films they have (default none)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; torchrun gives each process one")
    parser.add_argument("--cache", type=Path, help="folder of stored features (default: .features beside the run)")
    parser.add_argument("--or-random", action="store_true", help="without ImageNet weights go on with random ones")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with this run where an earlier try ended")
    earlier.add_argument("--force", action="store_true", help="replace the run in the folder, finished or not")
    parser.add_argument(
        "--log", default="none", choices=TRACKERS, help="show the epochs in TensorBoard or MLflow, if installed"
    )
    below = parser.add_argument_group("with --trainable layer4 or all")
    below.add_argument("--batch-size", type=_at_least(1), help=f"films in a step (default {tuning.batch_size})")
    below.add_argument("--patience", type=_at_least(1), help=f"epochs without gain (default {tuning.patience})")
    below.add_argument(
        "--layer-decay",
        type=float,
        help=f"a stage's learning rate over that of the stage above it (default {tuning.layer_decay})",
    )
    below.add_argument(
        "--precision",
        choices=["auto", *PRECISIONS],
        help="of training; auto is bfloat16 or float16 on a GPU and float32 on a CPU (default auto)",
    )
    below.add_argument(
        "--save-every",
        type=_seconds,
        metavar="SECONDS",
        help=f"between two states to go on from (default {SAVE_EVERY_S:g})",
    )
    return parser


def _seconds(text: str) -> float:
    if not 0.0 <= float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return float(text)


def _at_least(lowest: int) -> Any:
    def whole_number(text: str) -> int:
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} is below {lowest}")
        return int(text)

    return whole_number
