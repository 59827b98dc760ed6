"""Films with labels and splits, from a `manifest.csv` or the tutorial's folder tree."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from cxr.errors import InputError, ModelError
from cxr.films.decode import decode
from cxr.films.film import Film, Pixels
from cxr.model.classes import CLASSES, NAME, STANDARD, Scheme
from cxr.model.spec import sha256_of
from cxr_training.errors import TrainingError

MANIFEST: Final = "manifest.csv"
SPLITS: Final = ("train", "val", "test")
SYNTHETIC: Final = "synthetic"  # the source of films that are drawn
IGNORED_LABEL: Final = "OTHER"  # abnormal without pneumonia: no class, unless it is made one
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
    scheme
        The classes of the data folder, or of the model that its films are read for.
    """

    file: Path
    name: str
    label: str
    patient_id: str
    split: str
    sha256: str
    extra: Mapping[str, str] = field(default_factory=dict)
    scheme: Scheme = STANDARD

    @property
    def target(self) -> int:
        """The label as an index into the classes; OTHER, where that is no class, is as the first."""
        return self.scheme.classes.index(self.label) if self.label in self.scheme.classes else 0

    @property
    def is_positive(self) -> bool:
        """True where the label is of the positive group; OTHER is not."""
        return self.label in self.scheme.positive

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
        The films of the classes.
    ignored
        Rows with the label OTHER that are of no class.
    others
        Their films, as far as they are there.
    scheme
        The classes and the positive group.
    """

    folder: Path
    records: tuple[Record, ...]
    ignored: int = 0
    others: tuple[Record, ...] = ()
    scheme: Scheme = STANDARD

    def with_others(self, rule: str) -> Films:
        """The films with those labelled OTHER, by a rule.

        ``ignore`` leaves them out, ``negative`` counts them as the first class, which is NORMAL, ``class`` makes OTHER
        a class of its own outside the positive group.
        """
        if rule == "ignore" or not self.others:
            return self
        left = self.ignored - len(self.others)
        if rule == "class":
            scheme = Scheme.of({*self.scheme.classes, IGNORED_LABEL}, self.scheme.positive)
            records = tuple(replace(record, scheme=scheme) for record in (*self.records, *self.others))
            return Films(self.folder, records, left, scheme=scheme)
        negative = tuple(replace(record, label=self.scheme.classes[0]) for record in self.others)
        return Films(self.folder, (*self.records, *negative), left, scheme=self.scheme)

    def of(self, split: str) -> tuple[Record, ...]:
        """The films of one split.

        Raises
        ------
        TrainingError
            If the split lacks a class, because nothing can be learnt or measured on one class alone.
        """
        chosen = tuple(record for record in self.records if record.split == split)
        count = Counter(record.label for record in chosen)
        for label in self.scheme.classes:
            if not count[label]:
                needed = "both classes" if len(self.scheme.classes) == 2 else "every class"
                raise TrainingError(
                    f"{self.folder}: split {split!r} has no {label} film ({len(chosen)} films in all); "
                    f"every split needs {needed}. Add films or change the split."
                )
        return chosen

    def digest(self) -> str:
        """SHA-256 of films, labels and splits; the order of the rows does not matter."""
        rows = sorted(f"{r.sha256} {r.label} {r.patient_id} {r.split}" for r in self.records)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def load_films(folder: Path, scheme: Scheme | None = None, positive: Sequence[str] = ()) -> Films:
    """The films of a folder with a `manifest.csv`, or with the tree ``train|val|test/CLASS/*``.

    The classes are NORMAL and PNEUMONIA; or else those labels, in capital letters, that are found in every split.

    Parameters
    ----------
    scheme
        That of the model the films are for; by default that of the labels.
    positive
        The positive group of the labels, by default every class but NORMAL and OTHER.

    Raises
    ------
    TrainingError
        If the folder is missing, a column, file, label or split is wrong, or a patient or a film is in two splits.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder: give one with a {MANIFEST} or with train/, val/ and test/")
    if (folder / MANIFEST).is_file():
        try:
            films = _from_manifest(folder, scheme, positive)
        except (UnicodeDecodeError, csv.Error) as error:
            raise TrainingError(f"{folder / MANIFEST} is not CSV in UTF-8 ({error}): save it again") from error
    elif (folder / "train").is_dir():
        films = _from_tree(folder, scheme, positive)
    else:
        raise TrainingError(f"{folder} has neither a {MANIFEST} nor a folder train/: see the README, 'Your own films'")
    _check_patients(films)
    return films


def _scheme_of(labels: Mapping[str, Collection[str]], scheme: Scheme | None, positive: Sequence[str]) -> Scheme:
    """The scheme of labels with the splits each is in: the given one, the standard one, or theirs.

    Raises
    ------
    TrainingError
        If the labels have no positive group, or one is asked for that they have not.
    """
    if scheme is not None:
        return scheme
    splits = {split for found in labels.values() for split in found}
    whole = {label for label, found in labels.items() if set(found) == splits and NAME.fullmatch(label)}
    if {*labels} <= {*CLASSES, IGNORED_LABEL} or not whole - {*CLASSES, IGNORED_LABEL}:
        if not {*positive} <= {*STANDARD.positive}:
            raise TrainingError(f"positive are {', '.join(positive)}: the films are {', '.join(sorted(labels))}")
        return STANDARD
    try:
        return Scheme.of(whole - {IGNORED_LABEL}, positive)
    except ModelError as error:
        raise TrainingError(f"the labels make no classes: {error}. Name the positive ones with --positive") from error


def _from_manifest(folder: Path, scheme: Scheme | None, positive: Sequence[str]) -> Films:
    path = folder / MANIFEST
    records: list[Record] = []
    others: list[Record] = []
    ignored = 0
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise TrainingError(f"{path} has no column {', '.join(missing)}: needed are {', '.join(_COLUMNS)}")
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
        labels: dict[str, set[str]] = defaultdict(set)
        for _, row in rows:
            labels[row["label"]].add(row["split"])
        scheme = _scheme_of(labels, scheme, positive)
        for where, row in rows:
            is_other = row["label"] == IGNORED_LABEL and IGNORED_LABEL not in scheme.classes
            ignored += is_other
            if is_other and not (row["split"] in SPLITS and row["patient_id"] and (folder / row["file"]).is_file()):
                continue
            if not is_other and row["label"] not in scheme.classes:
                known = ", ".join((*scheme.classes, IGNORED_LABEL))
                raise TrainingError(
                    f"{where}: label is {row['label']!r}: known are {known}. A class of its own has capital "
                    "letters and films in every split"
                )
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
            kept.append(Record(file, row["file"], row["label"], row["patient_id"], row["split"], digest, extra, scheme))
    return Films(folder, tuple(records), ignored, tuple(others), scheme)


def _from_tree(folder: Path, scheme: Scheme | None, positive: Sequence[str]) -> Films:
    """The tutorial's tree. It knows no patients, so every film counts as a patient of its own."""
    records: list[Record] = []
    folders: dict[str, list[Path]] = {}
    labels: dict[str, set[str]] = defaultdict(set)
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise TrainingError(f"{folder} has no folder {split}/: needed are {', '.join(SPLITS)}")
        folders[split] = sorted(path for path in (folder / split).iterdir() if path.is_dir())
        for class_folder in folders[split]:
            labels[class_folder.name].add(split)
    scheme = _scheme_of(labels, scheme, positive)
    for split in SPLITS:
        for class_folder in folders[split]:
            if class_folder.name not in scheme.classes:
                raise TrainingError(
                    f"{class_folder}: class folders are named {' and '.join(scheme.classes)}, or else in capital "
                    "letters and there in every split; rename it"
                )
            for file in sorted(class_folder.iterdir()):
                if file.suffix.lower() in _SUFFIXES and file.is_file() and not file.name.startswith("."):
                    name = str(file.relative_to(folder))
                    records.append(Record(file, name, class_folder.name, name, split, sha256_of(file), scheme=scheme))
    return Films(folder, tuple(records), scheme=scheme)


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
