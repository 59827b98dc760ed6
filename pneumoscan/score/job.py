"""A job from its films to the summary: whole parts are kept, and what they lack is scored."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from cxr.json_records import to_json
from pneumoscan.errors import UsageError
from pneumoscan.files import locked, sha256_of, write_text, write_whole
from pneumoscan.model_store import unpack_archive
from pneumoscan.progress import films_done
from pneumoscan.score.plan import LOG_FILE, SUMMARY_FILE, Job, open_job, part_file, read_films
from pneumoscan.score.pool import Task, WorkerPool, WorkerSettings
from pneumoscan.score.rows import Row, row_of, schema, table
from pneumoscan.score.summary import Summary, summarise
from pneumoscan.server.capacity import Capacity
from pneumoscan.server.options import FORMATS_VARIABLE

_ARCHIVE_FOLDER: Final = ".archive"  # unpacked beside the results, where what a kill leaves is found and removed
_LOCK: Final = ".lock"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be scored, by what, and where the results go.

    Parameters
    ----------
    paths
        Films, folders, CSV lists and ZIPs.
    archive
        A `.mar` file.
    out
        Folder of the results.
    view
        Of the films, where their files do not say it.
    part
        Films in each part.
    formats
        Files of film digitisers that are read too.
    timeout_s
        How long one film may take.
    capacity
        Workers, and the threads of each.
    force
        Begin again where the folder holds another job.
    """

    paths: Sequence[Path]
    archive: Path
    out: Path
    view: str | None
    part: int
    formats: tuple[str, ...]
    timeout_s: float
    capacity: Capacity
    force: bool


def score(request: Request) -> Summary:
    """Score what a folder's results lack.

    Raises
    ------
    UsageError
        The folder holds another job, or there is no film, or no archive.
    ModelError
        The archive refuses to work.
    ScoreError
        Workers end before they are ready.
    """
    out = request.out
    with _nothing_begun():
        digest = sha256_of(request.archive)
        out.mkdir(parents=True, exist_ok=True)
    paths = tuple(str(path.absolute()) for path in request.paths)
    with locked(out / _LOCK, busy=UsageError(f"another pneumoscan score writes to {out}: wait for its end")):
        with _nothing_begun():
            wanted = Job(paths, digest, request.view, request.part, request.formats)
            job = open_job(out, wanted, request.paths, force=request.force)
        return _finish(request, job)


@contextmanager
def _nothing_begun() -> Iterator[None]:
    """What cannot be read or written now was not to be asked for."""
    try:
        yield
    except OSError as error:
        raise UsageError(str(error)) from error


def _finish(request: Request, job: Job) -> Summary:
    """Score what is lacking and count it all."""
    out = request.out
    lacking = [number for number in range(job.parts) if not _is_whole(part_file(out, number), job.films_in(number))]
    left = sum(map(job.films_in, lacking))
    seconds = 0.0
    if lacking:
        with _pool(request, left) as pool:
            seconds = _score_parts(out, job, lacking, pool)
    parts = [part_file(out, number) for number in range(job.parts)]
    summary = summarise(parts, left, seconds)
    write_text(out / SUMMARY_FILE, to_json(summary), durable=True)
    return summary


@contextmanager
def _pool(request: Request, films: int) -> Iterator[WorkerPool]:
    """Workers with the archive, which is unpacked for as long as they live."""
    folder = (request.out / _ARCHIVE_FOLDER).resolve()
    shutil.rmtree(folder, ignore_errors=True)  # a kill leaves it
    try:
        unpack_archive(request.archive, folder)
        headers = {"Cxr-Cam": "none"} | ({"Cxr-View": request.view} if request.view else {})
        with (request.out / LOG_FILE).open("ab") as log:
            variables = {**request.capacity.thread_variables, FORMATS_VARIABLE: ",".join(request.formats)}
            settings = WorkerSettings(folder, headers, variables, request.timeout_s, log)
            with WorkerPool(settings, min(request.capacity.workers, films)) as pool:
                yield pool
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _score_parts(out: Path, job: Job, lacking: Sequence[int], pool: WorkerPool) -> float:
    """Write the parts that are lacking, each when its last row is there; give the seconds from first film to last row.

    Each part that is begun has a film with a worker or about to be tried again, so that the rows in memory are those of
    a few parts, however many films there are.
    """
    begun: dict[int, dict[int, Row]] = {}
    whole = job.films - sum(map(job.films_in, lacking))
    with films_done(None, job.films, initial=whole) as bar:
        for task, reply in pool.score(_tasks(out, job, lacking, bar.unpause)):
            assert pool.scorer is not None
            number, place = divmod(task.place, job.part)
            rows = begun.setdefault(number, {})
            rows[place] = row_of(task.film.name, reply, pool.scorer)
            bar.update()
            if len(rows) == job.films_in(number):
                _write_part(part_file(out, number), [row for _, row in sorted(begun.pop(number).items())])
    assert not begun
    return time.monotonic() - pool.first_film_at


def _tasks(out: Path, job: Job, lacking: Sequence[int], begin: Callable[[], object]) -> Iterator[Task]:
    """The films of the parts that are lacking; `begin` is called when the first is asked for, to time from there."""
    films, at = read_films(out), 0
    begin()
    for number in lacking:
        start = number * job.part
        for place, film in enumerate(islice(films, start - at, start - at + job.films_in(number)), start=start):
            yield Task(place, film)
        at = start + job.films_in(number)


def _write_part(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow.parquet as pq

    write_whole(path, lambda draft: pq.write_table(table(rows), draft, compression="zstd"), durable=True)


def _is_whole(path: Path, films: int) -> bool:
    """Whether a part is there; one that a disk damaged is not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as part:
            return bool(part.metadata.num_rows == films and part.schema_arrow.equals(schema()))
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
