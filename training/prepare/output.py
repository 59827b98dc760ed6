"""A prepared data folder on disk: whole or not at all, and never over another one."""

from __future__ import annotations

import csv
import filecmp
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from training.data import MANIFEST
from training.errors import TrainingError
from training.prepare.films import Preparation, Prepared
from training.prepare.report import as_markdown, summarise
from training.sources.boxes import BOXES

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


def write_output(done: Preparation, out: Path) -> tuple[dict[str, Any], bool]:
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
        for film in done.films:
            _copy(film, part / film.file)
        manifest = _csv(_COLUMNS, map(_row, done.films))
        report = summarise(done, hashlib.sha256(manifest).hexdigest())
        (part / MANIFEST).write_bytes(manifest)
        (part / BOXES).write_bytes(_csv(_BOX_COLUMNS, _box_rows(done.films)))
        text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
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
