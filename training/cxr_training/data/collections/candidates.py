"""Films that a collection offers with what its tables say of them, films left out with the reason, and those tables."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from cxr_training.data.groups import read_age
from cxr_training.errors import TrainingError

REASONS: Final[dict[str, str]] = {
    "image_missing": "the table names an image that is not there",
    "not_in_table": "the image is there and no table names it",
    "modality": "no radiograph, CT for instance",
    "view": "no frontal view (PA, AP, AP Supine, AP Erect)",
    "finding": "neither pneumonia nor without finding",
    "no_patient_id": "the patient is not named, so that no split could keep the patient's films together",
    "labels_disagree": "the tables contradict each other on this film",
    "duplicate_file": "the same file as one that is kept",
    "duplicate_pixels": "the same pixels as one that is kept",
    "near_duplicate": "the same exposure, resized or compressed again, as one that is kept",
    "duplicates_disagree": "the same exposure is there with another label; neither is kept",
}


@dataclass(frozen=True, slots=True)
class Box:
    """Where a reader marked an opacity: left, top, width and height in pixels of the film."""

    x: float
    y: float
    width: float
    height: float

    def fits(self, width: int, height: int) -> bool:
        """Whether it has an area and lies on a film of this size."""
        has_area = self.width > 0 and self.height > 0
        return has_area and min(self.x, self.y) >= 0 and self.x + self.width <= width and self.y + self.height <= height

    def scaled(self, factor: float) -> Box:
        """The box on a film so many times as large."""
        return Box(self.x * factor, self.y * factor, self.width * factor, self.height * factor)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One film a collection offers.

    Parameters
    ----------
    collection
        The reader it came from, ``rsna``, ``covid`` or ``folder``; also the prefix of its patients.
    source
        What the manifest calls its source; a folder with a manifest can hold several.
    name
        Path inside the collection, with ``/``.
    patient_id
        Prefixed by the collection.
    split
        The split it already has, empty where it has none.
    boxes_side
        Of the square film whose pixels the boxes count; None where they count the film's own.
    """

    collection: str
    source: str
    name: str
    path: Path
    label: str
    patient_id: str
    label_source: str
    view: str = ""
    age: str = ""
    sex: str = ""
    licence: str = ""
    split: str = ""
    boxes: tuple[Box, ...] = ()
    boxes_side: int | None = None

    @property
    def full_name(self) -> str:
        """Collection and path, as reports show it."""
        return f"{self.collection}/{self.name}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A film that was left out: a key of `REASONS` or an error code of the decoder, and the film kept instead."""

    name: str
    reason: str
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collection offers and what its reader left out."""

    candidates: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...] = ()


def years(text: str) -> str:
    """An age in whole years, or a range of them, as `cxr_training.data.groups.read_age` reads it; else empty."""
    age = read_age(text)
    return "" if age is None else str(age)


def sex_letter(text: str) -> str:
    """M, F or O (DICOM PS3.3 C.7.1.1); else empty."""
    letter = text.strip().upper()
    return letter if letter in ("M", "F", "O") else ""


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, keyed by its header in lower case with ``_`` for spaces; a cell that is missing is empty.

    Raises
    ------
    TrainingError
        If the file is missing, is no CSV in UTF-8, or has none of a column that is `needed`.
    """
    if not path.is_file():
        raise TrainingError(f"{path} is missing: give the collection's folder as it was published")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            header = [name.strip().lower().replace(" ", "_") for name in next(reader, [])]
            rows = [dict.fromkeys(header, "") | dict(zip(header, _cells(row), strict=False)) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path} is not CSV in UTF-8 ({error}): save it again") from error
    if missing := [name for name in needed if name not in header]:
        raise TrainingError(f"{path} has no column {', '.join(missing)}: give the table as it was published")
    return rows


def _cells(row: Sequence[str]) -> list[str]:
    return [cell.strip() for cell in row]


def boxes_by(key: str, rows: Sequence[Mapping[str, str]], path: Path) -> dict[str, tuple[Box, ...]]:
    """The boxes of each film, sorted, from rows with `key`, x, y, width and height; a row without numbers has none.

    Raises
    ------
    TrainingError
        If a row holds something that is no number.
    """
    found: dict[str, set[Box]] = defaultdict(set)
    for row in rows:
        texts = [row[name] for name in ("x", "y", "width", "height")]
        if not any(texts):
            continue
        try:
            numbers = [float(text) for text in texts]
        except ValueError:
            numbers = [math.nan]
        if not all(map(math.isfinite, numbers)):
            raise TrainingError(f"{path}: the box of {row[key]!r} is {', '.join(texts)}: four numbers are needed")
        found[row[key]].add(Box(*numbers))
    return {
        name: tuple(sorted(boxes, key=lambda box: (box.x, box.y, box.width, box.height)))
        for name, boxes in found.items()
    }


def inside(folder: Path, name: str) -> Path | None:
    """The file a table names, None where there is none or the name leads out of the folder."""
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts:
        return None
    path = folder / parts
    return path if path.is_file() else None
