"""A batch of requests in, one reply for each out; what is wrong with one stays with that one.

Each film is a job that is decoded, scored and answered; an error ends its job alone, wherever it occurs.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final

import torch

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.dicom_tags import TagRefusal
from cxr.films.film import Film, Pixels
from cxr.films.frontal import LATERAL, check_frontal
from cxr.model.brightness import check_brightness
from cxr.model.preprocess import network_film, resize
from cxr.predict import Prediction, Predictor
from cxr.serving.arrival import Arrival
from cxr.serving.card import AuditSummary, model_card
from cxr.serving.drift import DriftWindow, Reference
from cxr.serving.faults import DeviceLostError, is_out_of_memory, predict_each, where
from cxr.serving.metrics import NOT_DECLARED, OK, BatchMetrics
from cxr.serving.record import Entry, PredictionRecord
from cxr.serving.render import MAX_SIDE, display_film
from cxr.serving.reply import (
    DIGITS,
    Answer,
    ModelIdentity,
    Reply,
    answer_line,
    answer_of,
    card_reply,
    error_reply,
    reply_to,
)
from cxr.serving.request import Options, Request, asks_for_card, read_request

# Of a batch. TorchServe replaces a worker that takes longer than responseTimeout, 120 s in model-config.yaml, and
# fails all requests of its batch; a batch of 256 films needs the rest on two cores.
_DECODING_S: Final = 40.0
_FILMS_A_PASS: Final = 32  # of a batch: the next ones are prepared while these are scored
_FOR_NOBODY: Final = Reply(499, "application/json", b"{}")  # who asked has left; nginx's own number for it
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """One request as the server hands it over: its parts by name, its headers, its id."""

    row: Mapping[str, Any]
    headers: Mapping[str, str]
    request_id: str


@dataclass(slots=True)
class FilmJob:
    """One film on its way from its bytes to its answer.

    Parameters
    ----------
    data
        The bytes of its file; let go once they are decoded.
    options, arrival
        What its request asks for, and how that came.
    tensor_film
        At the size of the network's input, (size, size) uint8. With `film` all that is kept of the pixels until the
        batch is scored: a batch of full films could fill the memory.
    film
        At the size of the reply's pictures, with the file's facts about the original.
    digest
        SHA-256 of its file, where predictions are written down.
    prediction, answer
        The model's answer, and that as the reply has it.
    error
        What ended the job, if something did.
    """

    data: bytes | None
    options: Options
    arrival: Arrival
    tensor_film: Pixels | None = None
    film: Film | None = None
    digest: str = ""
    prediction: Prediction | None = None
    answer: Answer | None = None
    error: InputError | None = None
    is_for_nobody: bool = False

    @property
    def is_done(self) -> bool:
        """True where nothing more is to be computed for it; looks again whether who sent it has left."""
        self.is_for_nobody = self.is_for_nobody or self.arrival.has_left()
        return self.error is not None or self.is_for_nobody

    @property
    def outcome(self) -> Answer | InputError:
        """The part of the reply that is this film's, once the job came to its end."""
        outcome = self.answer if self.error is None else self.error
        assert outcome is not None, "a job ends in an answer or an error"
        return outcome


@dataclass(slots=True)
class RequestJob:
    """One request on its way to its reply; without a `request` and an `error` it asks for the model card."""

    arrival: Arrival
    request: Request | None = None
    films: list[FilmJob] = field(default_factory=list)
    reply: Reply | None = None
    error: InputError | None = None

    @property
    def is_for_card(self) -> bool:
        """True where it asks for the model card, and of no film."""
        return self.request is None and self.error is None

    @property
    def is_for_nobody(self) -> bool:
        """True where who sent it has left, and a film was not computed for that."""
        return any(film.is_for_nobody for film in self.films)


class BatchService:
    """Answers batches with one predictor.

    Parameters
    ----------
    predictor
        What scores the films.
    identity
        What every reply says of the model.
    metrics, audit
        What was measured of it, for the model card.
    reference
        What recent films are compared with; without one there is no drift to see.
    formats
        Of `cxr.films.scans.FORMATS`, those that the operator admits.
    record
        Where predictions are written down; None for nowhere.
    """

    def __init__(
        self,
        predictor: Predictor,
        identity: ModelIdentity,
        metrics: Mapping[str, Any] | None = None,
        audit: AuditSummary | None = None,
        reference: Reference | None = None,
        formats: Collection[str] = (),
        record: PredictionRecord | None = None,
    ) -> None:
        self.predictor = predictor
        self.identity = identity
        self.formats = frozenset(formats)
        self.card = card_reply(model_card(predictor.spec, asdict(identity), metrics, audit))
        self.record = record
        self.drift = None if reference is None else DriftWindow(reference)
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "film") if threads > 1 else None
        self.is_lost = False  # the device fails every call: the process has to end

    def answer(self, batch: Sequence[IncomingRequest], metrics: BatchMetrics | None = None) -> list[Reply]:
        """One reply for each request, in their order. Never raises for anything a request holds.

        Parameters
        ----------
        metrics
            What is counted and timed on the way is put in here.
        """
        metrics = BatchMetrics(classes=self.predictor.spec.classes) if metrics is None else metrics
        begun = time.monotonic()
        targets = ("predicted", *self.predictor.spec.scheme.targets)
        jobs = [_read(incoming, targets) for incoming in batch]
        self._decode_and_score([film for job in jobs for film in job.films], begun + _DECODING_S, metrics)
        replies = [self._reply(job, metrics) for job in jobs]
        if size := sum(not job.is_for_card for job in jobs):
            metrics.observe("cxr_batch_size", size)
            metrics.observe("cxr_batch_seconds", time.monotonic() - begun)
        for job in jobs:
            if not job.is_for_card and not job.is_for_nobody:
                _time(job.arrival, metrics)
        if self.record is not None:
            self.record.add([entry for job in jobs for entry in self._entries(job, time.monotonic() - begun)])
        if self.drift is not None:
            self.drift.publish(metrics)
        return replies

    def _decode_and_score(self, jobs: Sequence[FilmJob], deadline: float, metrics: BatchMetrics) -> None:
        """Bring each job to its prediction or its error.

        As many films are decoded side by side as the worker has threads; those that are ready are scored meanwhile.
        """
        step = partial(self._decode, deadline=deadline, metrics=metrics)
        # Without threads all are decoded first: while earlier ones are scored, the time to decode would run out.
        decoded = list(map(step, jobs)) if self._pool is None else self._pool.map(step, jobs)
        ready: list[FilmJob] = []
        for count, job in enumerate(decoded, start=1):
            if not job.is_done:
                ready.append(job)
            if len(ready) == _FILMS_A_PASS or count == len(jobs):
                self._score(ready, metrics)
                ready = []

    def _decode(self, job: FilmJob, deadline: float, metrics: BatchMetrics) -> FilmJob:
        data, job.data = job.data, None
        if data is None or job.is_done:
            return job
        with _errors_of(job):
            if self.record is not None:
                job.digest = hashlib.sha256(data).hexdigest()
            if time.monotonic() > deadline:
                raise InputError(
                    "OVERLOADED", "the films before it took too long to decode; send it again, or by itself."
                )
            spec = self.predictor.spec
            with metrics.timed("cxr_decode_seconds"):
                film = self._film(data, job.options)
            metrics.count("cxr_images_total", film.info.format)
            with metrics.timed("cxr_preprocess_seconds"):
                film = check_frontal(film, job.options.view, spec.screen)
                job.tensor_film = resize(film.pixels, spec.preprocessing)
                if spec.brightness is not None:
                    seen = network_film(job.tensor_film, spec.preprocessing)
                    film = check_brightness(film, seen, spec.brightness)
                pixels = self._picture(film, data) if job.options.needs_picture else job.tensor_film
                job.film = replace(film, pixels=pixels)
        return job

    def _film(self, data: bytes, options: Options) -> Film:
        """The film in a file; of one that its tags say is none, where the request says that it is."""
        try:
            return decode(data, self.predictor.spec.preprocessing.least_side, self.formats)
        except TagRefusal as refusal:
            if options.view in (None, LATERAL) or refusal.film is None:
                raise
            return refusal.film.flagged("tag_overruled")

    def _picture(self, film: Film, data: bytes) -> Pixels:
        """A decoded film at the size of the reply's pictures.

        What is scored must not depend on whether a picture is asked for, and the picture must not lose what the network
        does without. One decoding serves both, but for a film in JPEG or JPEG 2000 whose sides are both at least twice
        those that the network needs: its coding gives a half, a quarter or an eighth of the pixels by leaving out the
        finest waves, which no averaging of larger pixels gives again to the bit. Only that one is decoded again.
        """
        has_detail = film.is_whole or min(film.pixels.shape) >= MAX_SIDE
        return display_film(film.pixels if has_detail else decode(data, MAX_SIDE, self.formats).pixels)

    def _score(self, jobs: Sequence[FilmJob], metrics: BatchMetrics) -> None:
        films = [job.tensor_film for job in jobs if job.tensor_film is not None]
        if not films:
            return
        try:
            with metrics.timed("cxr_forward_seconds"):
                scored = predict_each(self.predictor, films)
        except DeviceLostError:
            self.is_lost = True
            lost = InputError("WORKER_LOST", "the server's GPU failed and the worker starts anew; send it again.")
            scored = [lost] * len(films)
        for job, one in zip(jobs, scored, strict=True):
            if isinstance(one, Prediction):
                job.prediction = one
            else:
                job.error = _explain(one)

    def _reply(self, job: RequestJob, metrics: BatchMetrics) -> Reply:
        if job.is_for_card:
            return self.card
        if job.is_for_nobody:
            metrics.count("cxr_abandoned_total")
            return _FOR_NOBODY
        request_id = job.arrival.request_id
        if job.request is not None:
            metrics.count("cxr_views_total", job.request.options.view or NOT_DECLARED)
            with metrics.timed("cxr_render_seconds"), _errors_of(job):
                for film in job.films:
                    self._answer(film)
                outcomes = [film.outcome for film in job.films]
                job.reply = reply_to(job.request, outcomes, self.identity, request_id)
        if job.reply is None:
            assert job.error is not None
            metrics.count_request(job.error.code, is_answered=False)
            return replace(error_reply(job.error, request_id), answer=answer_line(self.identity, job.error))
        errors = [film.error.code for film in job.films if film.error is not None]
        metrics.count_request(errors[0] if errors else OK, is_answered=len(errors) < len(job.films))
        for film in job.films:
            self._count_answer(film, metrics)
        only = job.films[0] if len(job.films) == 1 else None
        said = None if only is None else only.error or only.prediction
        return job.reply if said is None else replace(job.reply, answer=answer_line(self.identity, said))

    def _answer(self, job: FilmJob) -> None:
        if job.error is not None:
            return
        with _errors_of(job):
            assert job.prediction is not None
            assert job.film is not None
            spec = self.predictor.spec
            request_id = job.arrival.request_id
            job.answer = answer_of(job.prediction, job.film, job.options, spec, self.identity, request_id)

    def _entries(self, job: RequestJob, batch_s: float) -> Iterator[Entry]:
        """What is written down of a request: its films that were answered."""
        came, spec = job.arrival, self.predictor.spec
        took = came.seconds_until_now()
        for number, film in enumerate(job.films):
            if film.answer is None or film.error is not None or film.prediction is None or film.film is None:
                continue
            yield Entry(
                came.request_id,
                (came.trace_parent or "")[3:35],
                number,
                film.digest,
                round(film.prediction.probability, DIGITS),
                film.prediction.label,
                film.prediction.indeterminate,
                film.film.info.flags,
                self.identity.version,
                self.identity.weights_sha256,
                spec.engines[self.predictor.device.type],
                film.prediction.rescored,
                None if took is None else round(came.waited_s, 3),
                round(batch_s if took is None else took, 3),
            )

    def _count_answer(self, job: FilmJob, metrics: BatchMetrics) -> None:
        if job.error is not None or job.prediction is None or job.film is None or job.tensor_film is None:
            return
        probability = job.prediction.probability
        metrics.count("cxr_predictions_total", job.prediction.label)
        for flag in job.film.info.flags:
            metrics.count("cxr_flags_total", flag)
        if job.prediction.indeterminate:
            metrics.count("cxr_indeterminate_total")
        if job.prediction.rescored:
            metrics.count("cxr_rescored_total")
        metrics.observe("cxr_probability_pneumonia", probability)
        if self.drift is not None:
            info = job.film.info
            self.drift.add(job.tensor_film, info.width, info.height, probability)


def _read(incoming: IncomingRequest, targets: tuple[str, ...]) -> RequestJob:
    """The job of a request, with a job for each of its films."""
    job = RequestJob(Arrival.of(incoming.headers, incoming.request_id))
    if asks_for_card(incoming.row, incoming.headers):
        return job
    with _errors_of(job):
        job.request = read_request(incoming.row, incoming.headers, targets)
        job.films = [
            FilmJob(None, job.request.options, job.arrival, error=film)
            if isinstance(film, InputError)
            else FilmJob(film, job.request.options, job.arrival)
            for film in job.request.films
        ]
    return job


def _time(arrival: Arrival, metrics: BatchMetrics) -> None:
    """Time a request from when it was sent, where somebody said when: its wait, and the whole of it."""
    took = arrival.seconds_until_now()
    if took is not None:
        metrics.observe("cxr_queue_seconds", arrival.waited_s)
        metrics.time_request(took)


@contextmanager
def _errors_of(job: FilmJob | RequestJob) -> Iterator[None]:
    """Any error in the block ends the job and nothing else."""
    try:
        yield
    except Exception as error:
        job.error = _explain(error)


def _explain(error: Exception) -> InputError:
    """An error as its reply puts it."""
    if isinstance(error, InputError):
        return error.bare()
    if is_out_of_memory(error):
        return InputError("OUT_OF_MEMORY", "the server has no memory for this film now; send it again later.")
    # A fault of ours: this request gets a 500, the others their answers.
    # Not the message: it can hold text from the upload.
    _log.error("%s at %s", type(error).__name__, where(error))
    return InputError("INTERNAL", "the server failed on this request; its log says where.")
