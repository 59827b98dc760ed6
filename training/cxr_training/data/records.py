"""Films with labels and splits, from a `manifest.csv` or the tutorial's folder tree."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.film import Film, Pixels
from cxr.model.spec import CLASSES, sha256_of
from cxr_training.errors import TrainingError

MANIFEST: Final = "manifest.csv"
SPLITS: Final = ("train", "val", "test")
SYNTHETIC: Final = "synthetic"  # the source of films that are drawn
IGNORED_LABEL: Final = "OTHER"  # abnormal without pneumonia: neither class of a two-class reading
_COLUMNS: Final = ("file", "label", "patient_id", "split")
_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom", ""})


@dataclass(frozen=True, slots=True)
class Record:
    """One film: where it lies, what it is, whose it is.

    Parameters
    ----------
    file
        The image file.
    name
        Its path inside the data folder, as reports show it.
    sha256
        Of the file when it was listed; empty where that is not known.
    extra
        The manifest's other columns.
    """

    file: Path
    name: str
    label: str
    patient_id: str
    split: str
    sha256: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> int:
        """The label as an index into the classes, whose order is pinned by the spec; OTHER is no PNEUMONIA."""
        return 0 if self.label == IGNORED_LABEL else CLASSES.index(self.label)

    def data(self) -> bytes:
        """The bytes of the file, which are those that were listed.

        Raises
        ------
        TrainingError
            If the file was changed since.
        """
        data = self.file.read_bytes()
        if self.sha256 and hashlib.sha256(data).hexdigest() != self.sha256:
            raise TrainingError(f"{self.file} was changed after its folder was listed: let it be and start again")
        return data

    def read(self, least_side: int | None = None) -> Pixels:
        """The film's grey pixels, (H, W) uint8; `least_side` as in `cxr.films.decode.decode`.

        Raises
        ------
        TrainingError
            If the file was changed since it was listed, or cannot be decoded.
        """
        return self.film_in(self.data(), least_side).pixels

    def film_in(self, data: bytes, least_side: int | None = None) -> Film:
        """The film in the bytes of its file, as `read` decodes it.

        Raises
        ------
        TrainingError
            If they cannot be decoded.
        """
        try:
            return decode(data, least_side)
        except InputError as error:
            raise TrainingError(f"{self.file}: {error}. Mend the file or take its row out.") from error


def all_synthetic(records: Iterable[Record]) -> bool:
    """Whether every film is drawn, by its source: figures then say nothing about patients."""
    return all(record.extra.get("source") == SYNTHETIC for record in records)


@dataclass(frozen=True, slots=True)
class Films:
    """All films of a data folder.

    Parameters
    ----------
    records
        The films of the two classes.
    ignored
        Rows with the label OTHER that are of neither class.
    others
        Their films, as far as they are there.
    """

    folder: Path
    records: tuple[Record, ...]
    ignored: int = 0
    others: tuple[Record, ...] = ()

    def with_others(self, rule: str) -> Films:
        """The films with those labelled OTHER as ``negative``, that is as NORMAL; as they are for ``ignore``."""
        if rule == "ignore" or not self.others:
            return self
        negative = tuple(replace(record, label=CLASSES[0]) for record in self.others)
        return Films(self.folder, (*self.records, *negative), self.ignored - len(negative))

    def of(self, split: str) -> tuple[Record, ...]:
        """The films of one split.

        Raises
        ------
        TrainingError
            If the split lacks a class, because nothing can be learnt or measured on one class alone.
        """
        chosen = tuple(record for record in self.records if record.split == split)
        count = Counter(record.label for record in chosen)
        for label in CLASSES:
            if not count[label]:
                raise TrainingError(
                    f"{self.folder}: split {split!r} has no {label} film ({len(chosen)} films in all); "
                    "every split needs both classes. Add films or change the split."
                )
        return chosen

    def digest(self) -> str:
        """SHA-256 of films, labels and splits; the order of the rows does not matter."""
        rows = sorted(f"{r.sha256} {r.label} {r.patient_id} {r.split}" for r in self.records)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def load_films(folder: Path) -> Films:
    """The films of a folder with a `manifest.csv`, or with the tree ``train|val|test/CLASS/*``.

    Raises
    ------
    TrainingError
        If the folder is missing, a column, file, label or split is wrong, or a patient or a film is in two splits.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder: give one with a {MANIFEST} or with train/, val/ and test/")
    if (folder / MANIFEST).is_file():
        try:
            films = _from_manifest(folder)
        except (UnicodeDecodeError, csv.Error) as error:
            raise TrainingError(f"{folder / MANIFEST} is not CSV in UTF-8 ({error}): save it again") from error
    elif (folder / "train").is_dir():
        films = _from_tree(folder)
    else:
        raise TrainingError(f"{folder} has neither a {MANIFEST} nor a folder train/: see the README, 'Your own films'")
    _check_patients(films)
    return films


def _from_manifest(folder: Path) -> Films:
    path = folder / MANIFEST
    records: list[Record] = []
    others: list[Record] = []
    ignored = 0
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise TrainingError(f"{path} has no column {', '.join(missing)}: needed are {', '.join(_COLUMNS)}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            is_other = row["label"] == IGNORED_LABEL
            ignored += is_other
            if is_other and not (row["split"] in SPLITS and row["patient_id"] and (folder / row["file"]).is_file()):
                continue
            if not is_other and row["label"] not in CLASSES:
                raise TrainingError(f"{where}: label is {row['label']!r}: known are {', '.join(CLASSES)}, OTHER")
            if row["split"] not in SPLITS:
                raise TrainingError(f"{where}: split is {row['split']!r}: known are {', '.join(SPLITS)}")
            if not row["patient_id"]:
                raise TrainingError(f"{where}: patient_id is empty: splits are by patient, so every film needs one")
            file = folder / row["file"]
            if not file.is_file():
                raise TrainingError(f"{where}: {file} is missing: put the film there or take the row out")
            digest = sha256_of(file)
            if row.get("sha256", digest) not in (digest, ""):
                raise TrainingError(f"{where}: {file} is not the film the manifest names (its sha256 differs)")
            extra = {key: value for key, value in row.items() if key not in (*_COLUMNS, "sha256") and key is not None}
            kept = others if is_other else records
            kept.append(Record(file, row["file"], row["label"], row["patient_id"], row["split"], digest, extra))
    return Films(folder, tuple(records), ignored, tuple(others))


def _from_tree(folder: Path) -> Films:
    """The tutorial's tree. It knows no patients, so every film counts as a patient of its own."""
    records: list[Record] = []
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise TrainingError(f"{folder} has no folder {split}/: needed are {', '.join(SPLITS)}")
        for class_folder in sorted(path for path in (folder / split).iterdir() if path.is_dir()):
            if class_folder.name not in CLASSES:
                raise TrainingError(f"{class_folder}: class folders are named {' and '.join(CLASSES)}; rename it")
            for file in sorted(class_folder.iterdir()):
                if file.suffix.lower() in _SUFFIXES and file.is_file() and not file.name.startswith("."):
                    name = str(file.relative_to(folder))
                    records.append(Record(file, name, class_folder.name, name, split, sha256_of(file)))
    return Films(folder, tuple(records))


def _check_patients(films: Films) -> None:
    splits: dict[str, str] = {}
    same_film: dict[str, Record] = {}
    for record in (*films.records, *films.others):
        twin = same_film.setdefault(record.sha256, record)
        if twin.split != record.split:
            raise TrainingError(
                f"{films.folder}: {record.name} ({record.split}) and {twin.name} ({twin.split}) are the same film; "
                "the figures would be too good. Take one out."
            )
        first = splits.setdefault(record.patient_id, record.split)
        if first != record.split:
            raise TrainingError(
                f"{films.folder}: patient {record.patient_id!r} is in {first!r} and in {record.split!r}; "
                "the figures would be too good. Keep all films of a patient in one split."
            )


_TERMS: Final = ("source", "label_source", "licence")


def provenance(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One entry for each source, label source and licence of the manifest, with its films by split and label.

    What the manifest does not say is an empty text.
    """
    keys = [tuple(record.extra.get(column) or "" for column in _TERMS) for record in records]
    counts = Counter((key, record.split, record.label) for key, record in zip(keys, records, strict=True))
    labels = sorted({record.label for record in records})
    return [
        {
            **dict(zip(_TERMS, key, strict=True)),
            "films": {split: {label: counts[key, split, label] for label in labels} for split in SPLITS},
        }
        for key in sorted(set(keys))
    ]
