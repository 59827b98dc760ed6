"""A folder of DICOM in, a folder of results out: two objects for each film that was answered, and a record of all.

Objects are written whole or not at all, each film's together, and ``result.json`` last: a folder that has it is whole.
What is reported while it works has numbers and no names, since a file may be named after a patient.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from cxr import NOTICE
from cxr.errors import InputError
from cxr_client import ClientError, InferenceClient, PredictionFailed, PredictionRefused, ServerUnreachable
from pneumoscan.dicom.answer import MAP_FORM, MAP_TARGET, Answer, read_answer
from pneumoscan.dicom.capture import secondary_capture
from pneumoscan.dicom.report import answer_report, refusal_report
from pneumoscan.dicom.source import Source, read_source, result_uid
from pneumoscan.files import write_bytes, write_text
from pneumoscan.outcomes import Outcome

RECORD_FILE: Final = "result.json"
# The statuses of a refusal that is about the film; others are about the request, its key or the model's version.
_ABOUT_FILM: Final = frozenset({413, 415, 422})

UNREACHABLE: Final = "UNREACHABLE"

State = Literal["answered", "refused", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a film has no answer: a stable name, one plain sentence, and the value, the rule and the remedy."""

    code: str
    title: str
    detail: str
    retryable: bool = False


_OWN_RESULT: Final = Reason("OWN_RESULT", "The file is a result, not a film", "this program made it.")
_DUPLICATE: Final = Reason("DUPLICATE", "The film came twice", "an earlier file has its SOP Instance UID.")


@dataclass(frozen=True, slots=True)
class ResultObject:
    """A DICOM file that was made: its kind (``SC``, ``SR``) and its SOP Instance UID."""

    kind: str
    uid: str

    @property
    def file(self) -> str:
        """Its name; never that of the film, which may be a patient's."""
        return f"{self.kind.lower()}-{self.uid}.dcm"


@dataclass(frozen=True, slots=True)
class FilmResult:
    """What came of one file.

    Parameters
    ----------
    number
        From 1, in the order of the files; what is reported names a film by it.
    file
        Path below the folder that was read.
    reason
        Why there is no answer; None for one that was answered.
    """

    number: int
    file: str
    state: State = "failed"
    source: Source | None = None
    answer: Answer | None = None
    reason: Reason | None = None
    objects: tuple[ResultObject, ...] = ()

    @property
    def line(self) -> str:
        """What is reported of it: no name, no UID, nothing of the patient."""
        if self.answer is not None:
            band = ", indeterminate" if self.answer.indeterminate else ""
            return f"film {self.number}: {self.answer.label} {self.answer.probability:.3f}{band}"
        assert self.reason is not None
        return f"film {self.number}: {self.state}: {self.reason.code}: {self.reason.detail}"

    def record(self) -> dict[str, Any]:
        """Its entry in ``result.json``."""
        record: dict[str, Any] = {"number": self.number, "file": self.file, "outcome": self.state}
        if self.source is not None:
            record["study_instance_uid"] = self.source.study_uid
            record["series_instance_uid"] = str(self.source.header.SeriesInstanceUID)
            record["sop_instance_uid"] = self.source.uid
        if self.answer is not None and self.source is not None:
            record |= _answer_record(self.answer, self.source)
        if self.reason is not None:
            record["reason"] = {"code": self.reason.code, "title": self.reason.title, "detail": self.reason.detail}
            record["reason"]["retryable"] = self.reason.retryable
        record["objects"] = [{"kind": one.kind, "file": one.file, "sop_instance_uid": one.uid} for one in self.objects]
        return record


@dataclass(slots=True)
class ResultMaker:
    """Asks a server about films and writes what is made of its answers.

    Parameters
    ----------
    out
        The folder that objects are written to.
    version
        That of the model; the server's default one without it.
    reports_refusals
        Whether a film that is refused gets a report that says so.
    """

    client: InferenceClient
    out: Path
    version: str | None = None
    reports_refusals: bool = False

    def make_all(self, planned: Sequence[FilmResult], paths: Sequence[Path], jobs: int) -> Iterator[FilmResult]:
        """One result for each file, in their order.

        Parameters
        ----------
        planned
            Of `plan`.
        jobs
            Films asked about at once.
        """
        gave_up: list[Reason] = []

        def one(film: FilmResult, path: Path) -> FilmResult:
            if gave_up and film.reason is None:  # the next thousand films would each wait for the same nothing
                return replace(film, reason=gave_up[0])
            result = self.make(film, path)
            if result.reason is not None and result.reason.code == UNREACHABLE:
                gave_up.append(result.reason)
            return result

        with ThreadPoolExecutor(jobs) as pool:
            try:
                yield from pool.map(one, planned, paths)
            except BaseException:  # Ctrl-C, or nobody wants the rest
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def make(self, planned: FilmResult, path: Path) -> FilmResult:
        """Ask about one film and write what is made of the answer; whatever goes wrong is its reason."""
        if planned.reason is not None or planned.source is None:
            return planned
        try:
            return self._answered(planned, planned.source, path)
        except PredictionRefused as error:
            if error.status not in _ABOUT_FILM:
                return replace(planned, reason=_reason_of(error))
            return self._refused(planned, planned.source, _reason_of(error))
        except ClientError as error:
            return replace(planned, reason=_reason_of(error))
        except OSError as error:  # its text names a file
            reason = Reason("NOT_WRITTEN", "The result is not written", str(error.strerror), retryable=True)
            return replace(planned, reason=reason)
        except Exception as error:  # highdicom 0.28 raises whatever a tag leads to; its text can hold the tag
            return replace(planned, reason=Reason("INTERNAL", "No result can be made", type(error).__name__))

    def _answered(self, planned: FilmResult, source: Source, path: Path) -> FilmResult:
        reply = self.client.predict(path, MAP_FORM, MAP_TARGET, self.version)
        answer, overlay = read_answer(reply, source)
        files = {
            ResultObject("SC", result_uid(source, "sc", answer.model)): secondary_capture(answer, overlay, source),
            ResultObject("SR", result_uid(source, "sr", answer.model)): answer_report(answer, source),
        }
        self._write(files)
        return replace(planned, state="answered", answer=answer, objects=tuple(files))

    def _refused(self, planned: FilmResult, source: Source, reason: Reason) -> FilmResult:
        refused = replace(planned, state="refused", reason=reason)
        if not self.reports_refusals or not source.is_image:
            return refused
        report = ResultObject("SR", result_uid(source, "refusal"))
        self._write({report: refusal_report(reason.code, reason.title, source)})
        return replace(refused, objects=(report,))

    def _write(self, files: dict[ResultObject, bytes]) -> None:
        """Write the objects of a film, all of them or none."""
        written: list[Path] = []
        try:
            for one, data in files.items():
                write_bytes(self.out / one.file, data)
                written.append(self.out / one.file)
        except OSError:
            for path in written:
                path.unlink(missing_ok=True)
            raise


def document(results: Sequence[FilmResult]) -> str:
    """The text of ``result.json``."""
    record = {"notice": NOTICE, "films": [result.record() for result in results]}
    return json.dumps(record, indent=2, allow_nan=False) + "\n"


def write_record(out: Path, results: Sequence[FilmResult]) -> None:
    """Write ``result.json``; what an earlier one names and no result has any more is removed."""
    stale = _objects_of_record(out / RECORD_FILE) - {one.file for result in results for one in result.objects}
    write_text(out / RECORD_FILE, document(results))
    for name in stale:
        (out / name).unlink(missing_ok=True)


def _objects_of_record(path: Path) -> set[str]:
    """The names of files that a record has; none where it is not one of ours."""
    try:
        films = json.loads(path.read_bytes())["films"]
        names = {str(one["file"]) for film in films for one in film["objects"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if Path(name).name == name and name.endswith(".dcm")}


def plan(number: int, path: Path, root: Path) -> FilmResult:
    """What a file is before it is asked about; one with a reason is not asked about."""
    film = FilmResult(number, path.relative_to(root).as_posix())
    try:
        source = read_source(path)
    except InputError as error:
        return replace(film, state="refused", reason=Reason(error.code, error.title, error.detail))
    except OSError as error:  # its text names the file
        reason = Reason("UNREADABLE", "The file cannot be read", str(error.strerror), retryable=True)
        return replace(film, reason=reason)
    film = replace(film, source=source)
    return replace(film, state="skipped", reason=_OWN_RESULT) if source.is_own_result else film


def plan_all(paths: Sequence[Path], root: Path) -> list[FilmResult]:
    """What each file is before any is asked about; of files with one SOP Instance UID the first is asked about.

    Parameters
    ----------
    root
        What the files' names are given below.
    """
    seen: set[str] = set()
    films = []
    for number, path in enumerate(paths, start=1):
        film = plan(number, path, root)
        uid = film.source.uid if film.source is not None else ""
        if uid in seen and film.reason is None:
            film = replace(film, state="skipped", reason=_DUPLICATE)
        if uid:
            seen.add(uid)
        films.append(film)
    return films


def _reason_of(error: ClientError) -> Reason:
    outcome = Outcome(Path(), error=error)
    if isinstance(error, PredictionFailed):
        # A refusal that is not about the film is about a key or a version, which somebody will set right.
        retryable = error.retryable or (isinstance(error, PredictionRefused) and error.status not in _ABOUT_FILM)
        return Reason(outcome.error_code, error.title, outcome.error_text, retryable)
    is_away = isinstance(error, ServerUnreachable)
    return Reason(outcome.error_code, "The server gave no answer", outcome.error_text, is_away)


def _group(answer: Answer) -> dict[str, Any]:
    """The positive classes as a reply has them; nothing where that is PNEUMONIA."""
    decided = answer.decided
    if {*answer.probabilities} <= {"NORMAL", "PNEUMONIA"}:
        return {}
    group = {"classes": list(decided.positive), "probability": decided.probability, "called": decided.is_positive}
    return {"positive": group}


def _answer_record(answer: Answer, source: Source) -> dict[str, Any]:
    model = answer.model
    return {
        "label": answer.label,
        "probabilities": dict(answer.probabilities),
        "decision": {
            "operating_point": answer.operating_point,
            "threshold": answer.threshold,
            "indeterminate": answer.indeterminate,
            **_group(answer),
        },
        "model": {
            "name": model.name,
            "version": model.version,
            "arch": model.arch,
            "weights_sha256": model.weights_sha256,
        },
        "flags": list(answer.flags),
        "regions": [
            {"points": region.points.tolist(), "share": region.share} for region in answer.stored_regions(source)
        ],
    }
