"""Fine-tune a ResNet on a data folder and keep the best epoch on validation.

The head is trained on stored features of the frozen backbone; with --trainable layer4 or all, layers below it are then
trained too. Started by torchrun, several processes share the work. The test split is not opened here. Everything the
result depends on is in `run.json`.
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

from cxr.spec import CLASSES, SPEC_FILE
from training.command import run_command
from training.data import Films, load_films
from training.engine import Epoch, format_elapsed
from training.errors import TrainingError
from training.features import backbone_digest
from training.figures import plot_history, plot_views
from training.fit import Fit, Fitted
from training.processes import Processes, joined, speaks
from training.provenance import provenance
from training.resume import Unfinished
from training.runs import CALIBRATION, CHECKPOINT, RUN_FILE, RunRecord, write_text, write_whole
from training.settings import TrainSettings, holds_run
from training.tracking import tracked
from training.train_arguments import parser_of_train, settings_of
from training.weights import NORMALISATIONS, StartingPoint, reestimate_batchnorm, starting_point

_BATCHNORM_FILMS = 128  # enough for statistics of one number a channel


def train(
    films: Films,
    run: Path,
    settings: TrainSettings,
    *,
    cache: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    save_every_s: float = 300.0,
    tracker: str = "none",
    progress: bool = True,
) -> RunRecord:
    """Train and leave a run folder.

    Parameters
    ----------
    films
        Only the splits train and val are read.
    run
        The folder for the results; files of an earlier run in it are replaced.
    cache
        Where features are kept between runs; beside the run by default.
    device
        Where the network runs: ``auto``, ``cpu`` or ``cuda``.
    resume
        Go on from the state that an earlier try left in the run folder.
    save_every_s
        Seconds between two states while layers below the head are trained.
    tracker
        One of `training.tracking.TRACKERS`.

    Raises
    ------
    TrainingError
        If a split lacks a class, a film cannot be read, the starting weights cannot be had, or the state is of another
        training.
    """
    with joined(device) as processes:
        return _train(
            films, run, settings, processes, cache or run.parent / ".features", resume, save_every_s, tracker, progress
        )


def _train(
    films: Films,
    run: Path,
    settings: TrainSettings,
    processes: Processes,
    cache: Path,
    resume: bool,
    save_every_s: float,
    tracker: str,
    progress: bool,
) -> RunRecord:
    started = time.monotonic()
    progress = progress and processes.is_first
    train_films, val_films = films.of("train"), films.of("val")
    preprocessing = dataclasses.replace(NORMALISATIONS[settings.normalisation], size=settings.size)
    unfinished = Unfinished.of(run, settings, films.digest())
    state = unfinished.load() if resume else None
    start = _starting_point(settings)
    run.mkdir(parents=True, exist_ok=True)
    if start.pretrained == "random":
        chosen = np.random.default_rng(settings.seed).permutation(len(train_films))[:_BATCHNORM_FILMS]
        some = [train_films[i] for i in chosen]
        reestimate_batchnorm(start.network, some, preprocessing, processes.device, progress=progress)
    backbone = backbone_digest(start.network)
    if processes.is_first:
        for stale in (RUN_FILE, CHECKPOINT, CALIBRATION, SPEC_FILE, "metrics.json"):  # what names the older weights
            (run / stale).unlink(missing_ok=True)
        if state is None:
            unfinished.clear()
    processes.wait()
    with tracked(tracker if processes.is_first else "none", run, settings.as_json()) as on_epoch:
        fit = Fit(
            network=start.network,
            train=train_films,
            val=val_films,
            preprocessing=preprocessing,
            settings=settings,
            cache=cache,
            processes=processes,
            unfinished=unfinished,
            save_every_s=save_every_s,
            on_epoch=on_epoch,
            progress=progress,
        )
        if processes.is_first:
            shown = [film for name in CLASSES for film in [one for one in train_films if one.label == name][:2]]
            plot_views(run / "augmentations.png", shown, fit.views, preprocessing)
        fitted = fit.run(state)
    record = RunRecord(
        arch=settings.arch,
        pretrained=start.pretrained,
        preprocessing=preprocessing,
        data_sha256=films.digest(),
        settings=settings.as_json(),
        result={
            "best_epoch": fitted.best_epoch,
            "backbone_sha256": backbone,
            "films": {"train": len(train_films), "val": len(val_films)},
            "data": provenance(films.records),
            **{k: v for k, v in dataclasses.asdict(fitted.best).items() if k != "epoch"},
            **_cost(fitted),
            "processes": processes.count,
            "elapsed_s": round(time.monotonic() - started, 1),
        },
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        },
    )
    if processes.is_first:
        _write(run, start, fitted, record)
        unfinished.clear()
    processes.wait()
    return record


def _starting_point(settings: TrainSettings) -> StartingPoint:
    try:
        return starting_point(settings.weights, settings.arch, settings.seed)
    except TrainingError as error:
        if not (settings.or_random and settings.weights == "imagenet"):
            raise
        if speaks():
            print(
                f"WARNING: {error}\nWARNING: going on with RANDOM weights, as asked by --or-random. The model shows "
                "that everything works; its answers are worth little.",
                file=sys.stderr,
            )
        return starting_point("random", settings.arch, settings.seed)


def _cost(fitted: Fitted) -> dict[str, Any]:
    """What fine-tuning cost, as `run.json` notes it; nothing for a head alone."""
    if fitted.tuned is None:
        return {}
    return {
        "images_per_s": round(fitted.tuned.images_per_s, 2),
        "peak_memory_bytes": fitted.tuned.peak_memory_bytes,
    }


def _write(run: Path, start: StartingPoint, fitted: Fitted, record: RunRecord) -> None:
    """The checkpoint first, `run.json` last: a run folder with a record is whole."""
    state = {name: tensor.cpu().contiguous() for name, tensor in start.network.state_dict().items()}
    write_whole(run / CHECKPOINT, lambda path: _save(path, state))
    write_whole(run / "history.csv", lambda path: _write_history(path, fitted.history))
    plot_history(run / "history.png", fitted.history, fitted.best_epoch)
    write_text(run / RUN_FILE, record.to_json())


def _save(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Through a stream: torch would note the name of a file inside it, and the same weights give the same bytes."""
    with path.open("wb") as stream:
        torch.save(state, stream)


def _write_history(path: Path, history: Sequence[Epoch]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in dataclasses.fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(epoch) for epoch in history)


def _command(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments)
    films = load_films(arguments.data)
    unfinished = Unfinished.of(arguments.run, settings, films.digest())
    if (arguments.run / RUN_FILE).is_file() and not arguments.force:
        if arguments.resume and holds_run(arguments.run, settings, films):
            unfinished.clear()  # a kill between the record and the clearing leaves it
            if speaks():
                print(f"{arguments.run} already holds this run.")
            return
        raise TrainingError(f"{arguments.run} already holds a run: choose another --run, or replace it with --force")
    if unfinished.path.is_file() and not (arguments.resume or arguments.force):
        raise TrainingError(f"{arguments.run} holds an unfinished run: go on with --resume, or give it up with --force")
    record = train(
        films,
        arguments.run,
        settings,
        cache=arguments.cache,
        device=arguments.device,
        resume=arguments.resume and not arguments.force,
        save_every_s=arguments.save_every,
        tracker=arguments.log,
    )
    if not speaks():
        return
    result, epochs = record.result, record.settings["head" if settings.trainable == "head" else "tuning"]["epochs"]
    print(
        f"{arguments.run}: {record.arch} from {record.pretrained} weights, best epoch {result['best_epoch']} of "
        f"{epochs}, validation loss {result['val_loss']:.4f}, accuracy {result['val_accuracy']:.3f}, "
        f"in {format_elapsed(result['elapsed_s'])}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return run_command(parser_of_train(__doc__), _command, argv)


if __name__ == "__main__":
    sys.exit(main())
