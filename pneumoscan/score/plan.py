"""The plan of a job: which films in which order, by which archive, in parts of how many.

It is written before the first film is scored, and a job that is started again reads it instead of the folders: what was
added, moved or renamed meanwhile changes nothing. The list is written and read as a stream.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cxr.json_records import read_file, to_json
from pneumoscan.errors import UsageError
from pneumoscan.files import clear_drafts, sha256_of, write_text, write_whole
from pneumoscan.film_files import files_in_zip, is_called_film, is_film, walk_films
from pneumoscan.score.rows import shown_path

# Beside the parts. Readers of Parquet folders pass over names that begin so.
FILMS_FILE: Final = "_films.jsonl"
JOB_FILE: Final = "_job.json"
SUMMARY_FILE: Final = "_summary.json"
LOG_FILE: Final = "_workers.log"
_PARTS: Final = "part-*.parquet"
_COLUMN: Final = "file"  # of a list of films, such as a data folder's manifest.csv


@dataclass(frozen=True, slots=True)
class ListedFilm:
    """A film of the list: its file and, in a ZIP, the member's name."""

    path: str
    member: str | None = None

    @property
    def name(self) -> str:
        """What the results call it."""
        return shown_path(self.path if self.member is None else f"{self.path}/{self.member}")

    def to_line(self) -> str:
        """A line of the list."""
        return json.dumps([self.path] if self.member is None else [self.path, self.member]) + "\n"


@dataclass(frozen=True)
class Job:
    """What the rows depend on; a job that is started again has to have the same.

    Parameters
    ----------
    paths
        Where the films were looked for.
    archive_sha256
        Of the archive's file.
    view
        Of the films, where their files do not say it.
    part
        Films in each part.
    formats
        Files of film digitisers that are read too.
    films, films_sha256
        How many the list has, and its digest; 0 and empty before it is made.
    """

    paths: tuple[str, ...]
    archive_sha256: str
    view: str | None
    part: int
    formats: tuple[str, ...] = ()
    films: int = 0
    films_sha256: str = ""

    @property
    def parts(self) -> int:
        """How many parts there will be."""
        return -(-self.films // self.part)

    def films_in(self, number: int) -> int:
        """How many films a part has."""
        return min(self.part, self.films - number * self.part)


def part_file(out: Path, number: int) -> Path:
    """Where a part's rows are."""
    return out / f"part-{number:05d}.parquet"


def open_job(out: Path, wanted: Job, sources: Sequence[Path], *, force: bool) -> Job:
    """Take up the job of a folder, or begin it: find the films and write the plan.

    Parameters
    ----------
    wanted
        What is asked for; its films are those of the plan, where there is one.
    sources
        Films, folders, lists and ZIPs.
    force
        Begin again where the folder holds something else. A job without a row is given up without it.

    Raises
    ------
    UsageError
        The folder holds another job, or something else, or there is no film.
    """
    clear_drafts(out)
    if force:
        for path in (*(out / name for name in (JOB_FILE, SUMMARY_FILE, FILMS_FILE, LOG_FILE)), *out.glob(_PARTS)):
            path.unlink(missing_ok=True)
    if not (out / JOB_FILE).exists():
        # Of a start that was killed before the plan was whole, the list is left.
        others = sorted(path.name for path in out.iterdir() if path.name != FILMS_FILE and path.name[0] != ".")
        if others and not force:
            raise UsageError(f"{out} holds {others[0]} and no job of pneumoscan score: give another --out, or --force")
        return _begin(out, wanted, sources)
    job = read_file(out / JOB_FILE, Job, "pneumoscan score --force")
    try:
        _check_same(out, job, wanted)
    except UsageError:
        if any(out.glob(_PARTS)):
            raise
        return _begin(out, wanted, sources)  # no row is lost
    return job


def _check_same(out: Path, job: Job, wanted: Job) -> None:
    admitted = f"with --formats {' '.join(job.formats)}" if job.formats else "without --formats"
    for name, is_same in (
        ("by another archive", job.archive_sha256 == wanted.archive_sha256),
        ("of other paths", job.paths == wanted.paths),
        (f"with --view {job.view}" if job.view else "without --view", job.view == wanted.view),
        (f"in parts of {job.part}", job.part == wanted.part),
        (admitted, job.formats == wanted.formats),
    ):
        if not is_same:
            raise UsageError(f"{out} holds a job {name}: give another --out, or --force to begin again")
    if not (out / FILMS_FILE).is_file() or sha256_of(out / FILMS_FILE) != job.films_sha256:
        raise UsageError(f"{out / FILMS_FILE} is not the list that the job began with: give --force to begin again")


def read_films(out: Path) -> Iterator[ListedFilm]:
    """The films of the plan, one after another."""
    with (out / FILMS_FILE).open(encoding="ascii") as stream:
        for line in stream:
            yield ListedFilm(*json.loads(line))


def _begin(out: Path, wanted: Job, sources: Sequence[Path]) -> Job:
    count = 0

    def write(draft: Path) -> None:
        nonlocal count
        with draft.open("w", encoding="ascii") as stream:
            for count, film in enumerate(find_listed(sources), start=1):  # noqa: B007
                stream.write(film.to_line())

    write_whole(out / FILMS_FILE, write, durable=True)
    if not count:
        (out / FILMS_FILE).unlink()
        places = ", ".join(map(str, sources))
        raise UsageError(f"no film in {places}: PNG, JPEG or DICOM files, a CSV list or a ZIP are looked for")
    job = replace(wanted, films=count, films_sha256=sha256_of(out / FILMS_FILE))
    write_text(out / JOB_FILE, to_json(job), durable=True)
    return job


def find_listed(sources: Sequence[Path]) -> Iterator[ListedFilm]:
    """The films at some paths, in the order of the paths and by name inside a folder.

    A file that is named is taken, whatever it is, and once where a folder that is given too has it. A list may name
    the same film several times.

    Raises
    ------
    UsageError
        A path does not exist, or a list or a ZIP cannot be read.
    """
    paths = list(dict.fromkeys(path.absolute() for path in sources))
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist")
    named = {path for path in paths if not path.is_dir()}
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        if path.is_dir():
            if not any(_is_walked(path, folder) for folder in folders if folder != path):
                yield from (ListedFilm(str(film)) for film in walk_films(path) if film not in named)
        elif path.suffix.lower() == ".csv":
            yield from _in_list(path)
        elif path.suffix.lower() == ".zip":
            yield from _in_zip(path)
        else:
            yield ListedFilm(str(path))


def _is_walked(inner: Path, outer: Path) -> bool:
    """Whether the walk of a folder comes through another."""
    return inner.is_relative_to(outer) and not any(part[0] == "." for part in inner.relative_to(outer).parts)


def _in_list(path: Path) -> Iterator[ListedFilm]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        try:
            reader = csv.DictReader(stream)
            if _COLUMN not in (reader.fieldnames or ()):
                raise UsageError(f"{path} has no column {_COLUMN!r}: the films' paths, relative to its folder")
            for row in reader:
                if not row[_COLUMN]:
                    raise UsageError(f"{path}, line {reader.line_num}: {_COLUMN} is empty")
                yield ListedFilm(str(path.parent / row[_COLUMN]))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path} is not CSV in UTF-8 ({error}): save it again") from error


def _in_zip(path: Path) -> Iterator[ListedFilm]:
    try:
        for entry, read_head in files_in_zip(path):
            if is_called_film(entry.filename) or is_film(read_head):
                yield ListedFilm(str(path), entry.filename)
    except OSError as error:
        raise UsageError(f"{path} is no ZIP that can be read ({error})") from error
