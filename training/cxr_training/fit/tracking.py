"""Show a training in TensorBoard or MLflow, through their own libraries."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from cxr_training.errors import TrainingError
from cxr_training.fit.head import Epoch
from pneumoscan.tracking import import_mlflow

TRACKERS: Final = ("none", "tensorboard", "mlflow")
TENSORBOARD: Final = "tensorboard"  # folder in the run
_EXPERIMENT: Final = "pneumoscan"

OnEpoch = Callable[[Epoch], None]


def _ignore(_: Epoch) -> None:
    """Show nothing."""


@contextmanager
def tracked(tracker: str, run: Path, settings: Mapping[str, Any]) -> Iterator[OnEpoch]:
    """What takes every epoch to where the training is shown.

    Parameters
    ----------
    tracker
        ``none``; ``tensorboard``, which writes to the folder ``tensorboard`` of the run; or ``mlflow``, which writes to
        where MLFLOW_TRACKING_URI says, else to MLflow's own default, a run of the experiment ``pneumoscan``.
    run
        The run folder; its name is the run's name.
    settings
        Noted with the run.

    Raises
    ------
    TrainingError
        If the library is not installed.
    """
    if tracker == "none":
        yield _ignore
        return
    try:
        if tracker == "mlflow":
            import_mlflow()
        else:
            import_module("torch.utils.tensorboard")
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"--log {tracker} needs a package that is not installed ({error.name}): "
            "pip install 'pneumoscan[tracking]', or leave --log out"
        ) from error
    with {"tensorboard": _tensorboard, "mlflow": _mlflow}[tracker](run, settings) as on_epoch:
        yield on_epoch


@contextmanager
def _tensorboard(run: Path, settings: Mapping[str, Any]) -> Iterator[OnEpoch]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / TENSORBOARD)) as writer:
        lines = [f"    {name}: {value}" for name, value in flat(settings).items()]
        writer.add_text("settings", "\n".join(lines))

        def on_epoch(epoch: Epoch) -> None:
            for name, value in measured(epoch).items():
                writer.add_scalar(name, value, epoch.epoch)

        yield on_epoch


@contextmanager
def _mlflow(run: Path, settings: Mapping[str, Any]) -> Iterator[OnEpoch]:
    mlflow = import_mlflow()
    failure: type[Exception] = mlflow.MlflowException
    try:
        mlflow.set_experiment(_EXPERIMENT)
    except failure as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"MLflow has no place to write to ({reason}): set MLFLOW_TRACKING_URI to a tracking server, or install the "
            "whole mlflow package, which brings a local database"
        ) from error
    with mlflow.start_run(run_name=run.name):
        mlflow.log_params(flat(settings))

        def on_epoch(epoch: Epoch) -> None:
            try:
                mlflow.log_metrics(measured(epoch), step=epoch.epoch)
            except failure as error:  # a server that is away ends no training
                print(f"WARNING: MLflow did not take epoch {epoch.epoch} ({error})", file=sys.stderr)

        yield on_epoch


def measured(epoch: Epoch) -> dict[str, float]:
    """The figures of an epoch by name."""
    return {name: value for name, value in dataclasses.asdict(epoch).items() if name != "epoch"}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: ``{"head": {"epochs": 3}}`` → ``{"head.epochs": 3}``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
