"""What a training begins with: the same weights in every process, and the basis a later try is held against."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch
import torchvision

import cxr
from cxr.model.spec import Preprocessing
from training.data import Films, Record
from training.errors import TrainingError
from training.processes import Processes
from training.settings import TrainSettings, rows_digest
from training.tune import resolve_precision
from training.weights import StartingPoint, ready_to_train, starting_point


def start_together(
    settings: TrainSettings,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    processes: Processes,
    progress: bool,
) -> StartingPoint:
    """The network to start from: the first process gets it, the others get it from the first.

    Raises
    ------
    TrainingError
        As `training.weights.ready_to_train`.
    """
    if not processes.is_first:
        start = starting_point("random", settings.arch, settings.seed)
        return StartingPoint(start.network, processes.agree(start.network, ""))
    ready = (settings.arch, settings.seed, records, preprocessing, processes.device)
    try:
        start = ready_to_train(settings.weights, *ready, progress=progress)
    except TrainingError as error:
        if not (settings.or_random and settings.weights == "imagenet"):
            raise
        print(
            f"WARNING: {error}\nWARNING: going on with RANDOM weights, as asked by --or-random. The model shows that "
            "everything works; its answers are worth little.",
            file=sys.stderr,
        )
        start = ready_to_train("random", *ready, progress=progress)
    return StartingPoint(start.network, processes.agree(start.network, start.pretrained))


def basis_of(films: Films, settings: TrainSettings, backbone: str, processes: Processes) -> dict[str, str]:
    """What a state depends on, by the words for it."""
    precision = resolve_precision(settings.tuning.precision, processes.device)
    return {
        "set of settings": json.dumps(settings.as_json(), sort_keys=True),
        "list of films": rows_digest(films),
        "backbone": backbone,
        "precision": str(precision).removeprefix("torch."),
        "version of PneumoScan": cxr.__version__,
        **{f"version of {name}": version for name, version in versions().items()},
    }


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
