"""What a collection offers: films with what its tables say of them, and films left out with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_training.data.groups import read_age

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
    "near_duplicate": "the same exposure, resized or compressed anew, as one that is kept",
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
