"""Fine-tune a ResNet on a data folder and keep the best epoch on validation.

The head is trained on stored features of the frozen backbone; with --trainable layer4 or all, layers below it are then
trained too. Started by torchrun, several processes share the work. The test split is not opened here. Everything the
result depends on is in `run.json`.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from cxr.model.network import backbone_digest
from cxr_training.data.boxes import NO_BOXES, load_boxes
from cxr_training.data.records import Films, provenance
from cxr_training.errors import TrainingError
from cxr_training.fit.head import Epoch
from cxr_training.fit.processes import joined
from cxr_training.fit.resume import Unfinished, basis_of, clear, rows_digest, start_together, versions
from cxr_training.fit.settings import SAVE_EVERY_S, TrainSettings
from cxr_training.fit.stages import Fit, Fitted
from cxr_training.fit.tracking import TENSORBOARD, tracked
from cxr_training.fit.weights import NORMALISATIONS, StartingPoint
from cxr_training.pages.figures import plot_history, plot_views
from cxr_training.runs import CHECKPOINT, NAMING_WEIGHTS, RUN_FILE, RunRecord, features_folder
from pneumoscan.files import write_text, write_whole


def train(
    films: Films,
    run: Path,
    settings: TrainSettings,
    *,
    cache: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    save_every_s: float = SAVE_EVERY_S,
    tracker: str = "none",
) -> RunRecord:
    """Train and leave a run folder.

    Parameters
    ----------
    films
        Only the splits train and val are read; those labelled OTHER as `settings` say.
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
        One of `cxr_training.fit.tracking.TRACKERS`.

    Raises
    ------
    TrainingError
        If a split lacks a class, a film cannot be read, the starting weights cannot be had, or the state is of another
        training.
    """
    started = time.monotonic()
    films = films.with_others(settings.other)
    if settings.boxes and len(films.scheme.classes) > 2:
        raise TrainingError(
            f"--boxes teaches a head of two classes, and the films have {', '.join(films.scheme.classes)}: leave it out"
        )
    boxes = load_boxes(films) if settings.boxes else NO_BOXES
    train_films, val_films = films.of("train"), films.of("val")
    _check_place(run)
    preprocessing = dataclasses.replace(
        NORMALISATIONS[settings.normalisation], size=settings.size, decode=settings.decode, greys=settings.greys
    )
    with joined(device) as processes:
        start = start_together(settings, train_films, preprocessing, processes)
        backbone = backbone_digest(start.network)
        unfinished = Unfinished(run, basis_of(films, settings, backbone, processes))
        state = unfinished.load() if resume else None
        processes.wait()  # all have read what the first one may take away
        if processes.is_first:
            _make_room(run, from_start=state is None)
        with tracked(tracker if processes.is_first else "none", run, settings.as_json()) as on_epoch:
            fit = Fit(
                network=start.network,
                train=train_films,
                val=val_films,
                preprocessing=preprocessing,
                settings=settings,
                cache=cache or features_folder(run),
                processes=processes,
                unfinished=unfinished,
                save_every_s=save_every_s,
                on_epoch=on_epoch,
                boxes=boxes,
                others=[record for record in films.others if record.split == "train"],
            )
            if processes.is_first:
                classes = films.scheme.classes
                shown = [film for name in classes for film in [one for one in train_films if one.label == name][:2]]
                plot_views(run / "augmentations.png", shown, fit.views, preprocessing)
            fitted = fit.run(state)
        record = RunRecord(
            arch=settings.arch,
            pretrained=start.pretrained,
            preprocessing=preprocessing,
            data_sha256=films.digest(),
            settings=settings.as_json(),
            classes=films.scheme.classes,
            positive=films.scheme.positive,
            result={
                "best_epoch": fitted.best_epoch,
                "backbone_sha256": backbone,
                "rows_sha256": rows_digest(films, settings),
                "films": {"train": len(train_films), "val": len(val_films)},
                "data": provenance(films.records),
                **{k: v for k, v in dataclasses.asdict(fitted.best).items() if k != "epoch"},
                **_cost(fitted),
                "processes": processes.count,
                "elapsed_s": round(time.monotonic() - started + (fitted.tuned.earlier_s if fitted.tuned else 0.0), 1),
            },
            versions={"python": platform.python_version(), **versions()},
        )
        if processes.is_first:
            record = _write(run, start, fitted, record)
            clear(run)
        processes.wait()
    return record


def _check_place(run: Path) -> None:
    """Fail before any work where no folder can be made."""
    nearest = next(path for path in (run, *run.parents) if path.exists())
    if not nearest.is_dir():
        raise TrainingError(f"{run} cannot be a run folder: {nearest} is not a directory. Choose another --run")


def _make_room(run: Path, *, from_start: bool) -> None:
    """Take out what names older weights, and what an older try left where none is gone on from."""
    run.mkdir(parents=True, exist_ok=True)
    for stale in NAMING_WEIGHTS:
        (run / stale).unlink(missing_ok=True)
    if from_start:
        clear(run)
        shutil.rmtree(run / TENSORBOARD, ignore_errors=True)


def _cost(fitted: Fitted) -> dict[str, Any]:
    """What fine-tuning cost, as `run.json` notes it; nothing for a head alone."""
    if fitted.tuned is None:
        return {}
    return {
        "images_per_s": round(fitted.tuned.images_per_s, 2),
        "peak_memory_bytes": fitted.tuned.peak_memory_bytes,
    }


def _write(run: Path, start: StartingPoint, fitted: Fitted, record: RunRecord) -> RunRecord:
    """The checkpoint first, `run.json` last: a run folder with a record is whole; the record names the checkpoint."""
    state = {name: tensor.cpu().contiguous() for name, tensor in start.network.state_dict().items()}
    digest = hashlib.sha256()
    write_whole(run / CHECKPOINT, lambda path: _save(path, state, digest))
    write_whole(run / "history.csv", lambda path: _write_history(path, fitted.history))
    plot_history(run / "history.png", fitted.history, fitted.best_epoch)
    record = dataclasses.replace(record, checkpoint_sha256=digest.hexdigest())
    write_text(run / RUN_FILE, record.to_json())
    return record


def _save(path: Path, state: dict[str, torch.Tensor], digest: hashlib._Hash) -> None:
    """Through a stream: torch would note the name of a file inside it, and the same weights give the same bytes.

    The digest is of what was to be written, not of what a disk gives back.
    """
    with path.open("wb") as stream:
        torch.save(state, cast(BinaryIO, _Digested(stream, digest)))


@dataclasses.dataclass(frozen=True)
class _Digested:
    """A stream that is written to once, from its beginning to its end."""

    stream: BinaryIO
    digest: hashlib._Hash

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        self.stream.flush()


def _write_history(path: Path, history: Sequence[Epoch]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in dataclasses.fields(Epoch)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(epoch) for epoch in history)
