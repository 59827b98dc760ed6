"""A batch of requests in, one reply for each out; what is wrong with one stays with that one.

Each film is a job that is decoded, scored and answered; an error ends its job alone, wherever it occurs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
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
from cxr.model.preprocess import resize
from cxr.predict import Prediction, Predictor
from cxr.serving.card import AuditSummary, model_card
from cxr.serving.drift import DriftWindow, Reference
from cxr.serving.faults import DeviceLostError, is_out_of_memory, predict_each, where
from cxr.serving.metrics import OK, BatchMetrics
from cxr.serving.render import MAX_SIDE, display_film
from cxr.serving.reply import Answer, ModelIdentity, Reply, answer_of, card_reply, error_reply, reply_to
from cxr.serving.request import Options, Request, asks_for_card, read_request

# Of a batch. TorchServe replaces a worker that takes longer than responseTimeout, 120 s in model-config.yaml, and
# fails all requests of its batch; a batch of 256 films needs the rest on two cores.
_DECODING_S: Final = 40.0
_FILMS_A_PASS: Final = 32  # of a batch: the next ones are prepared while these are scored
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
    options
        What its request asks for.
    tensor_film
        At the size of the network's input, (size, size) uint8. With `film` all that is kept of the pixels until the
        batch is scored: a batch of full films could fill the memory.
    film
        At the size of the reply's pictures, with the file's facts about the original.
    prediction, answer
        The model's answer, and that as the reply has it.
    error
        What ended the job, if something did.
    """

    data: bytes | None
    options: Options
    tensor_film: Pixels | None = None
    film: Film | None = None
    prediction: Prediction | None = None
    answer: Answer | None = None
    error: InputError | None = None

    @property
    def outcome(self) -> Answer | InputError:
        """The part of the reply that is this film's, once the job came to its end."""
        outcome = self.answer if self.error is None else self.error
        assert outcome is not None, "a job ends in an answer or an error"
        return outcome


@dataclass(slots=True)
class RequestJob:
    """One request on its way to its reply; without a `request` and an `error` it asks for the model card."""

    request_id: str
    request: Request | None = None
    films: list[FilmJob] = field(default_factory=list)
    reply: Reply | None = None
    error: InputError | None = None

    @property
    def is_for_card(self) -> bool:
        """True where it asks for the model card, and of no film."""
        return self.request is None and self.error is None


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
    """

    def __init__(
        self,
        predictor: Predictor,
        identity: ModelIdentity,
        metrics: Mapping[str, Any] | None = None,
        audit: AuditSummary | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.predictor = predictor
        self.identity = identity
        self.card = card_reply(model_card(predictor.spec, asdict(identity), metrics, audit))
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
            if job.error is None:
                ready.append(job)
            if len(ready) == _FILMS_A_PASS or count == len(jobs):
                self._score(ready, metrics)
                ready = []

    def _decode(self, job: FilmJob, deadline: float, metrics: BatchMetrics) -> FilmJob:
        data, job.data = job.data, None
        if data is None:
            return job
        with _errors_of(job):
            if time.monotonic() > deadline:
                raise InputError(
                    "OVERLOADED", "the films before it took too long to decode; send it again, or by itself."
                )
            spec = self.predictor.spec
            with metrics.timed("cxr_decode_seconds"):
                film = _film(data, job.options, spec.preprocessing.least_side)
            metrics.count("cxr_images_total", film.info.format)
            with metrics.timed("cxr_preprocess_seconds"):
                film = check_frontal(film, job.options.view, spec.screen)
                job.tensor_film = resize(film.pixels, spec.preprocessing)
                pixels = _picture(film, data) if job.options.needs_picture else job.tensor_film
                job.film = replace(film, pixels=pixels)
        return job

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
        if job.request is not None:
            with metrics.timed("cxr_render_seconds"), _errors_of(job):
                for film in job.films:
                    self._answer(film, job.request_id)
                outcomes = [film.outcome for film in job.films]
                job.reply = reply_to(job.request, outcomes, self.identity, job.request_id)
        if job.reply is None:
            assert job.error is not None
            metrics.count_request(job.error.code, is_answered=False)
            return error_reply(job.error, job.request_id)
        errors = [film.error.code for film in job.films if film.error is not None]
        metrics.count_request(errors[0] if errors else OK, is_answered=len(errors) < len(job.films))
        for film in job.films:
            self._count_answer(film, metrics)
        return job.reply

    def _answer(self, job: FilmJob, request_id: str) -> None:
        if job.error is not None:
            return
        with _errors_of(job):
            assert job.prediction is not None
            assert job.film is not None
            spec = self.predictor.spec
            job.answer = answer_of(job.prediction, job.film, job.options, spec, self.identity, request_id)

    def _count_answer(self, job: FilmJob, metrics: BatchMetrics) -> None:
        if job.error is not None or job.prediction is None or job.film is None or job.tensor_film is None:
            return
        probability = job.prediction.probability
        metrics.count("cxr_predictions_total", job.prediction.label)
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
    job = RequestJob(incoming.request_id)
    if asks_for_card(incoming.row, incoming.headers):
        return job
    with _errors_of(job):
        job.request = read_request(incoming.row, incoming.headers, targets)
        job.films = [
            FilmJob(None, job.request.options, error=film)
            if isinstance(film, InputError)
            else FilmJob(film, job.request.options)
            for film in job.request.films
        ]
    return job


def _film(data: bytes, options: Options, least_side: int | None) -> Film:
    """The film in a file; of one that its tags say is none, where the request says that it is."""
    try:
        return decode(data, least_side)
    except TagRefusal as refusal:
        if options.view in (None, LATERAL) or refusal.film is None:
            raise
        return refusal.film.flagged("tag_overruled")


def _picture(film: Film, data: bytes) -> Pixels:
    """A decoded film at the size of the reply's pictures.

    What is scored must not depend on whether a picture is asked for, and the picture must not lose what the network
    does without. One decoding serves both, but for a film in JPEG or JPEG 2000 whose sides are both at least twice
    those that the network needs: its coding gives a half, a quarter or an eighth of the pixels by leaving out the
    finest waves, which no averaging of larger pixels gives again to the bit. Only that one is decoded a second time.
    """
    has_detail = film.is_whole or min(film.pixels.shape) >= MAX_SIDE
    return display_film(film.pixels if has_detail else decode(data, MAX_SIDE).pixels)


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
