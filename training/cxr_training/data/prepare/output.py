"""A prepared data folder on disk: whole or not at all, and never over another one."""

from __future__ import annotations

import csv
import filecmp
import hashlib
import io
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cxr.errors import CODES
from cxr.model.classes import CLASSES
from cxr_training.data.boxes import BOXES
from cxr_training.data.collections.candidates import REASONS, Dropped
from cxr_training.data.prepare.duplicates import NEAR
from cxr_training.data.prepare.films import Preparation, Prepared
from cxr_training.data.records import IGNORED_LABEL, MANIFEST, SPLITS
from cxr_training.errors import TrainingError

REPORT: Final = "report.json"
_COLUMNS: Final = (
    *("file", "label", "patient_id", "split", "source", "label_source", "view", "age", "sex", "licence"),
    *("sha256", "width", "height", "original_file"),
)
_BOX_COLUMNS: Final = ("file", "x", "y", "width", "height")


def check_out(out: Path, sources: Iterable[Path]) -> None:
    """Refuse a folder that nothing can be put into, before any film is read.

    Raises
    ------
    TrainingError
        If `out` is no folder, holds something that is no earlier result, or lies in a source.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise TrainingError(f"{out} is not a folder: name another")
    if Path.cwd().is_relative_to(out.resolve()):
        raise TrainingError(f"{out} holds the current folder: name another")
    for source in sources:
        if not source.is_dir():
            raise TrainingError(f"{source} is not a folder: give the one the collection was unpacked to")
        if out.resolve().is_relative_to(source.resolve()):
            raise TrainingError(f"{out} lies in {source}, which is only read: name a folder outside")
    if out.is_dir() and any(out.iterdir()) and not (out / REPORT).is_file():
        raise TrainingError(f"{out} is not empty: nothing is overwritten; name another folder")


def write_output(prepared: Preparation, out: Path) -> tuple[Report, bool]:
    """Write manifest, boxes, images and reports. They are written to a folder beside `out` that takes its name last.

    Returns
    -------
    The content of `report.json`, and whether the folder was new; if not, it was there already, byte for byte.

    Raises
    ------
    TrainingError
        If `out` holds anything else, or a film changed since it was read.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        (part / "images").mkdir(parents=True)
        for film in prepared.films:
            _copy(film, part / film.file)
        manifest = _csv(_COLUMNS, map(_row, prepared.films))
        report = summarise(prepared, hashlib.sha256(manifest).hexdigest())
        (part / MANIFEST).write_bytes(manifest)
        (part / BOXES).write_bytes(_csv(_BOX_COLUMNS, _box_rows(prepared.films)))
        text = json.dumps(asdict(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (part / REPORT).write_bytes(text.encode())
        (part / "report.md").write_bytes(as_markdown(report).encode())
        if not out.is_dir() or not any(out.iterdir()):
            part.rename(out)  # over an empty folder too; fails where it has been filled meanwhile
            return report, True
        if not _same(part, out):
            raise TrainingError(f"{out} holds another result: nothing is overwritten; name another folder")
        return report, False
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _copy(film: Prepared, to: Path) -> None:
    data = film.candidate.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != film.identity.sha256:
        raise TrainingError(f"{film.candidate.path} changed while it was read: run again when nothing writes there")
    to.write_bytes(data)


def _row(film: Prepared) -> Sequence[str | int]:
    of = film.candidate
    return (
        *(film.file, of.label, film.patient_id, film.split, of.source, of.label_source, film.view, of.age, of.sex),
        *(of.licence, film.identity.sha256, film.identity.width, film.identity.height, of.full_name),
    )


def _box_rows(films: Iterable[Prepared]) -> Iterable[Sequence[str]]:
    for film in films:
        for box in film.boxes:
            numbers = (box.x, box.y, box.width, box.height)
            yield film.file, *(str(int(one)) if one.is_integer() else repr(one) for one in numbers)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue().encode()


def _same(one: Path, other: Path) -> bool:
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, other)]
    if names[0] != names[1]:
        return False
    files = [name for name in names[0] if (one / name).is_file()]
    return all((other / name).is_file() and filecmp.cmp(one / name, other / name, shallow=False) for name in files)


_LABELS: Final = (*CLASSES, IGNORED_LABEL)
_SHOWN: Final = 5  # file names for each reason


@dataclass(frozen=True, slots=True)
class FilmCount:
    """How many films have the same source, label, split and view."""

    source: str
    label: str
    split: str
    view: str
    films: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How many films were left out for a reason, what the reason means, and the first of the films."""

    count: int
    meaning: str
    first: Sequence[str]


@dataclass(frozen=True, slots=True)
class Report:
    """The content of `report.json`, in its order."""

    films: int
    patients: int
    patients_by_split: Mapping[str, int]
    films_dropped: int
    settings: Mapping[str, Any]
    manifest_sha256: str
    counts: Sequence[FilmCount]
    licences: Mapping[str, int]
    boxes: Mapping[str, int]
    patients_united: int
    films_moved_to_their_patients_split: int
    dropped: Mapping[str, LeftOut]
    notes: Sequence[str]


def summarise(prepared: Preparation, manifest_sha256: str) -> Report:
    """The report; the same films and settings give the same."""
    films = prepared.films
    cells = Counter((film.candidate.source, film.candidate.label, film.split, film.view) for film in films)
    return Report(
        films=len(films),
        patients=len({film.patient_id for film in films}),
        patients_by_split={split: len({film.patient_id for film in films if film.split == split}) for split in SPLITS},
        films_dropped=len(prepared.dropped),
        settings={**asdict(prepared.settings), "near_duplicate_correlation": NEAR},
        manifest_sha256=manifest_sha256,
        counts=[FilmCount(*cell, count) for cell, count in sorted(cells.items())],
        licences=dict(sorted(Counter(film.candidate.licence or "not stated" for film in films).items())),
        boxes={
            "kept": sum(len(film.boxes) for film in films),
            "outside_their_film": sum(len(film.candidate.boxes) - len(film.boxes) for film in films),
        },
        patients_united=prepared.united,
        films_moved_to_their_patients_split=prepared.moved,
        dropped=_left_out(prepared.dropped),
        notes=notes(films),
    )


def _left_out(dropped: Iterable[Dropped]) -> dict[str, LeftOut]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for entry in dropped:
        by_reason[entry.reason].append(f"{entry.name} (kept: {entry.instead})" if entry.instead else entry.name)
    return {
        reason: LeftOut(len(names), REASONS[reason] if reason in REASONS else CODES[reason].title, names[:_SHOWN])
        for reason, names in sorted(by_reason.items())
    }


def notes(films: Sequence[Prepared]) -> list[str]:
    """What whoever trains on the films should know."""
    found = []
    for split in SPLITS:
        here = {film.candidate.label for film in films if film.split == split}
        if missing := [label for label in CLASSES if label not in here]:
            found.append(f"Split {split} has no {' and no '.join(missing)} film: training and measuring need both.")
    labels: dict[str, set[str]] = defaultdict(set)
    for film in films:
        labels[film.candidate.source].add(film.candidate.label)
    for source, has in sorted(labels.items()):
        if len(labels) > 1 and len(has & set(CLASSES)) == 1:
            (only,) = has & set(CLASSES)
            found.append(f"All films of {source} in a class are {only}: a model can learn the source for the class.")
    alone = sum(film.candidate.label_source == "folder-name" for film in films)
    if alone:
        found.append(f"{alone} films come from a tree without patients: each counts as a patient of its own.")
    return found


def as_markdown(report: Report) -> str:
    """The content of `report.md`."""
    settings = report.settings
    by_split = ((one.source, one.label, one.split, one.films) for one in report.counts)
    by_label = ((one.source, one.view, one.label, one.films) for one in report.counts)
    fractions = "/".join(f"{part:g}" for part in settings["fractions"])
    lines = [
        "# Prepared films",
        "",
        f"{report.films} films of {report.patients} patients; {report.films_dropped} left out. "
        f"Seed {settings['seed']}, fractions {fractions}, OTHER: {settings['other']}"
        f"{', split anew' if settings['resplit'] else ''}.",
        *(f"\n**{note}**" for note in report.notes),
        "\n## Films by source and label\n",
        *_table(
            ("source", "label", *SPLITS),
            _cross(by_split, SPLITS),
        ),
        "\n## Films by source and view\n",
        *_table(
            ("source", "view", *_LABELS),
            _cross(by_label, _LABELS),
        ),
        "\n## Patients by split\n",
        *_table(("split", "patients"), report.patients_by_split.items()),
        f"\n{report.patients_united} patients were found to be another one, by a shared exposure. "
        f"{report.films_moved_to_their_patients_split} films left the split they had, to be with their patient.",
        "\n## Left out\n",
        *_table(
            ("reason", "films", "meaning", "first of them"),
            [(why, of.count, of.meaning, ", ".join(of.first)) for why, of in report.dropped.items()],
        ),
        "\n## Licences\n",
        *_table(("licence", "films"), report.licences.items()),
        f"\nBoxes: {report.boxes['kept']} in `boxes.csv`. {report.boxes['outside_their_film']} were left out, "
        "as they do not lie on their film.",
    ]
    return "\n".join(lines) + "\n"


def _cross(counts: Iterable[tuple[str, str, str, int]], values: Sequence[str]) -> list[tuple[Any, ...]]:
    """Films by the first two columns, a row for each, and by the third, a column for each of the values."""
    cells: Counter[tuple[str, str, str]] = Counter()
    for first, second, value, films in counts:
        cells[first, second, value] += films
    keys = sorted({key[:2] for key in cells})
    return [
        (first, second or "not stated", *(cells[first, second, value] for value in values)) for first, second in keys
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    body = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *body] if body else ["None."]
