"""The state of a training that is under way, so that it goes on where it was however it ended."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
import torchvision

import cxr
from cxr.model.network import load_checked
from cxr.model.spec import Preprocessing
from cxr_training.data.boxes import NO_BOXES, load_boxes
from cxr_training.data.records import Films, Record
from cxr_training.errors import TrainingError
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import TrainSettings
from cxr_training.fit.tune import resolve_precision
from cxr_training.fit.tune_loop import State
from cxr_training.fit.weights import StartingPoint, ready_to_train, starting_point
from cxr_training.runs import RUN_FILE, RunRecord
from pneumoscan.files import clear_drafts, write_whole

STATE_FILE: Final = "unfinished.pth"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The state file of a run folder; there only while layers below the head are trained.

    Parameters
    ----------
    run
        The run folder.
    basis
        What the training depends on beside its state, in words a person knows: the state of another basis would end in
        weights that are neither's.
    """

    run: Path
    basis: Mapping[str, str]

    def save(self, state: State) -> None:
        """Replace the state, whole or not at all."""
        values = {"basis": dict(self.basis), **state}
        write_whole(self.run / STATE_FILE, lambda partial: torch.save(values, partial))

    def load(self) -> State | None:
        """The state, None where there is none.

        Raises
        ------
        TrainingError
            If it is of another basis, or cannot be read.
        """
        path = self.run / STATE_FILE
        if not path.is_file():
            return None
        try:
            values = load_checked(path)
        except OSError:
            raise
        except Exception as error:  # torch 2.12 raises whatever the damage leads to
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise TrainingError(f"{path} cannot be read ({reason}): start again with --force") from error
        if not isinstance(values, dict) or "basis" not in values:
            raise TrainingError(f"{path} cannot be read (it holds no state of a training): start again with --force")
        basis = values.pop("basis")
        state = cast(State, values)
        others = sorted(name for name in {*basis, *self.basis} if basis.get(name) != self.basis.get(name))
        if others:
            raise TrainingError(
                f"{self.run} holds an unfinished training that began with another {', '.join(others)}: ask for the "
                "same, choose another --run, or give it up with --force"
            )
        return state


def is_unfinished(run: Path) -> bool:
    """Whether a run folder holds the state of a training."""
    return (run / STATE_FILE).is_file()


def clear(run: Path) -> None:
    """Take the state away, and what a kill left of writing any file of the run."""
    (run / STATE_FILE).unlink(missing_ok=True)
    clear_drafts(run)


def start_together(
    settings: TrainSettings,
    records: Sequence[Record],
    preprocessing: Preprocessing,
    processes: Processes,
) -> StartingPoint:
    """The network to start from: the first process gets it, the others get it from the first.

    Raises
    ------
    TrainingError
        As `cxr_training.fit.weights.ready_to_train`.
    """
    if not processes.is_first:
        start = starting_point("random", settings.arch, settings.seed, len(records[0].scheme.classes))
        return StartingPoint(start.network, processes.agree(start.network, ""))
    ready = (settings.arch, settings.seed, records, preprocessing, processes.device)
    try:
        start = ready_to_train(settings.weights, *ready)
    except TrainingError as error:
        if not (settings.or_random and settings.weights == "imagenet"):
            raise
        print(
            f"WARNING: {error}\nWARNING: going on with RANDOM weights, as --or-random allows. The model shows that "
            "everything works; its answers are worth little.",
            file=sys.stderr,
        )
        start = ready_to_train("random", *ready)
    return StartingPoint(start.network, processes.agree(start.network, start.pretrained))


def basis_of(films: Films, settings: TrainSettings, backbone: str, processes: Processes) -> dict[str, str]:
    """What a state depends on, by the words for it."""
    precision = resolve_precision(settings.tuning.precision, processes.device)
    return {
        "set of settings": json.dumps(settings.as_json(), sort_keys=True),
        "list of films": rows_digest(films, settings),
        "backbone": backbone,
        "precision": str(precision).removeprefix("torch."),
        "version of PneumoScan": cxr.__version__,
        **{f"version of {name}": version for name, version in versions().items()},
    }


def versions() -> dict[str, str]:
    """Of what computes."""
    return {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}


def rows_digest(films: Films, settings: TrainSettings) -> str:
    """SHA-256 of the films that are trained with, in their order, with what their weight depends on and their boxes."""
    boxes = load_boxes(films) if settings.boxes else NO_BOXES
    others = films.others if settings.boxes else ()  # their cells teach too
    rows = [
        f"{record.split} {record.sha256} {record.label} {record.extra.get('source', '')} "
        f"{record.extra.get('label_source', '')} {boxes.of(record.name)}"
        for record in (*films.of("train"), *films.of("val"), *others)
    ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def holds_run(run: Path, settings: TrainSettings, films: Films) -> bool:
    """Whether a run folder holds the finished training of these settings on these films."""
    if not (run / RUN_FILE).is_file():
        return False
    record = RunRecord.load(run)
    if record.pretrained == "random" and settings.weights != "random" and not settings.or_random:
        return False
    requested = json.loads(json.dumps(settings.as_json()))  # as it came back from the file
    rows = record.result.get("rows_sha256")
    return bool(
        record.settings == requested
        and record.positive == films.scheme.positive
        and record.data_sha256 == films.digest()
        and rows == rows_digest(films, settings)
    )
