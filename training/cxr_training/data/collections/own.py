"""Own films: a folder with a `manifest.csv`, or a tree `train|val|test/CLASS/*` or `CLASS/*`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cxr.model.classes import CLASSES
from cxr_training.data.boxes import COLUMN, kept_boxes
from cxr_training.data.collections.candidates import Candidate, Collected, Dropped, inside, read_table
from cxr_training.data.records import IGNORED_LABEL, MANIFEST, SPLITS
from cxr_training.errors import TrainingError

_LABELS: Final = (*CLASSES, IGNORED_LABEL)


def read_folder(folder: Path) -> Collected:
    """The films of a folder with the splits they have.

    Raises
    ------
    TrainingError
        If the folder has neither form, or names a label or split that is not known.
    """
    if (folder / MANIFEST).is_file():
        return _from_manifest(folder)
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder: give one with a {MANIFEST} or with a folder for each class")
    splits = [name for name in SPLITS if (folder / name).is_dir()]
    parts = [(folder / split, split) for split in splits] or [(folder, "")]
    found = [film for part, split in parts for film in _from_classes(folder, part, split)]
    if not found:
        raise TrainingError(f"{folder} has no {MANIFEST} and no film in folders named {', '.join(_LABELS)}")
    return Collected(tuple(found))


def _from_manifest(folder: Path) -> Collected:
    path = folder / MANIFEST
    rows = read_table(path, ("file", "label", "patient_id"))
    boxes = kept_boxes(folder, {row["file"]: row.get(COLUMN, "") for row in rows})
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    for row in rows:
        name, label, split = row["file"], row["label"], row.get("split", "")
        if label not in _LABELS:
            raise TrainingError(f"{path}: label of {name} is {label!r}: known are {', '.join(_LABELS)}")
        if split not in (*SPLITS, ""):
            raise TrainingError(f"{path}: split of {name} is {split!r}: known are {', '.join(SPLITS)}, or empty")
        file = inside(folder, name)
        if file is None:
            dropped.append(Dropped(f"folder/{name}", "image_missing"))
        elif not row["patient_id"]:
            dropped.append(Dropped(f"folder/{name}", "no_patient_id"))
        else:
            texts = {key: row.get(key, "") for key in ("view", "age", "sex", "licence")}
            candidates.append(
                Candidate(
                    collection="folder",
                    source=row.get("source") or "folder",
                    name=name,
                    path=file,
                    label=label,
                    patient_id=f"folder:{row['patient_id']}",
                    label_source=row.get("label_source") or "manifest",
                    split=split,
                    boxes=boxes.of(name),
                    boxes_side=boxes.side,
                    **texts,
                )
            )
    return Collected(tuple(candidates), tuple(dropped))


def _from_classes(folder: Path, part: Path, split: str) -> list[Candidate]:
    """The films below folders named by class. Such a tree knows no patients: every film is one of its own."""
    found = []
    for class_folder in sorted(path for path in part.glob("[!.]*") if path.is_dir()):
        label = class_folder.name.upper()
        if label not in _LABELS:
            raise TrainingError(f"{class_folder}: class folders are named {', '.join(_LABELS)}; rename it")
        for path in sorted(class_folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and "/." not in name:
                found.append(
                    Candidate("folder", "folder", name, path, label, f"folder:{name}", "folder-name", split=split)
                )
    return found
