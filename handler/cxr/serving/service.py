"""A batch of requests in, one reply for each out; what is wrong with one stays with that one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

import torch

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.dicom_tags import TagRefusal
from cxr.films.film import Film, Pixels
from cxr.films.frontal import LATERAL, check_frontal
from cxr.model.preprocess import resize
from cxr.predict import Prediction, Predictor
from cxr.serving.card import model_card
from cxr.serving.drift import DriftWindow, Reference
from cxr.serving.faults import DeviceLostError, is_out_of_memory, predict_each, where
from cxr.serving.metrics import OK, Measured
from cxr.serving.render import MAX_SIDE, display_film
from cxr.serving.reply import Answer, ModelIdentity, Reply, answer_of, card_reply, error_reply, reply_to
from cxr.serving.request import Options, Request, asks_for_card, read_request

# Of a batch. TorchServe replaces a worker that takes longer than responseTimeout, 120 s in model-config.yaml, and
# fails all requests of its batch; a batch of 256 films needs the rest on two cores.
_DECODING_S: Final = 40.0
_FILMS_A_PASS: Final = 32  # of a batch: the next ones are prepared while these are scored
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request as the server hands it over: its parts by name, its headers, its id."""

    row: Mapping[str, Any]
    headers: Mapping[str, str]
    request_id: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is kept of a film until its batch is scored; a batch of full films could fill the memory.

    Parameters
    ----------
    tensor_film
        At the size of the network's input, (size, size) uint8.
    film
        At the size of the reply's pictures, with what its file said of the original.
    """

    tensor_film: Pixels
    film: Film


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
        audit: Mapping[str, Any] | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.predictor = predictor
        self.identity = identity
        self.card = card_reply(model_card(predictor.spec, asdict(identity), metrics, audit))
        self.drift = None if reference is None else DriftWindow(reference)
        threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(threads, "film") if threads > 1 else None
        self.is_lost = False  # the device fails every call: the process has to end

    def answer(self, batch: Sequence[Incoming], measured: Measured | None = None) -> list[Reply]:
        """One reply for each request, in their order. Never raises for anything a request holds.

        Parameters
        ----------
        measured
            What is counted and timed on the way is put in here.
        """
        measured = Measured() if measured is None else measured
        begun = time.monotonic()
        deadline = begun + _DECODING_S
        read = [
            None if asks_for_card(one.row, one.headers) else _attempt(partial(read_request, one.row, one.headers))
            for one in batch
        ]
        steps = [
            partial(self._prepare, one, request.options, deadline, measured)
            for request in read
            if isinstance(request, Request)
            for one in request.films
        ]
        outcomes = iter(self._prepare_and_score(steps, measured))
        replies: list[Reply] = []
        for one, request in zip(batch, read, strict=True):
            if request is None:
                replies.append(self.card)
                continue
            if isinstance(request, InputError):
                measured.count_request(request.code, is_answered=False)
                replies.append(error_reply(request, one.request_id))
                continue
            with measured.timed("cxr_render_seconds"):
                scored = list(islice(outcomes, len(request.films)))
                replies.append(self._reply(request, scored, one.request_id, measured))
        if size := sum(request is not None for request in read):
            measured.observe("cxr_batch_size", size)
            measured.observe("cxr_batch_seconds", time.monotonic() - begun)
        if self.drift is not None:
            self.drift.publish(measured)
        return replies

    def _prepare_and_score(
        self, steps: Sequence[Callable[[], Prepared]], measured: Measured
    ) -> list[tuple[Prepared, Prediction] | InputError]:
        """Each film with what the model says of it, or the error that ended it, in their order.

        As many films are prepared side by side as the worker has threads; those that are ready are scored meanwhile.
        """
        # Without threads all are prepared first: while earlier ones are scored, the time to decode would run out.
        attempts = list(map(_attempt, steps)) if self._pool is None else self._pool.map(_attempt, steps)
        outcomes: dict[int, tuple[Prepared, Prediction] | InputError] = {}
        ready: dict[int, Prepared] = {}
        for place, film in enumerate(attempts):
            if isinstance(film, InputError):
                outcomes[place] = film
            else:
                ready[place] = film
            if len(ready) == _FILMS_A_PASS or place == len(steps) - 1:
                for (one, its), scored in zip(ready.items(), self._score([*ready.values()], measured), strict=True):
                    outcomes[one] = scored if isinstance(scored, InputError) else (its, scored)
                ready = {}
        return [outcomes[place] for place in range(len(steps))]

    def _prepare(self, data: bytes | InputError, options: Options, deadline: float, measured: Measured) -> Prepared:
        if isinstance(data, InputError):
            raise data
        if time.monotonic() > deadline:
            raise InputError("OVERLOADED", "the films before it took too long to decode; send it again, or by itself.")
        spec = self.predictor.spec
        with measured.timed("cxr_decode_seconds"):
            film = _film(data, options, spec.preprocessing.least_side)
        measured.count("cxr_images_total", film.info.format)
        with measured.timed("cxr_preprocess_seconds"):
            film = check_frontal(film, options.view, spec.screen)
            tensor_film = resize(film.pixels, spec.preprocessing)
            # What is scored must not depend on whether a picture is asked for.
            shown = display_film(_film(data, options, MAX_SIDE).pixels) if options.needs_picture else tensor_film
        return Prepared(tensor_film, replace(film, pixels=shown))

    def _score(self, films: Sequence[Prepared], measured: Measured) -> Sequence[Prediction | InputError]:
        if not films:
            return []
        try:
            with measured.timed("cxr_forward_seconds"):
                scored = predict_each(self.predictor, [one.tensor_film for one in films])
        except DeviceLostError:
            self.is_lost = True
            lost = InputError("WORKER_LOST", "the server's GPU failed and the worker starts anew; send it again.")
            return [lost] * len(films)
        return [one if isinstance(one, Prediction) else _explain(one) for one in scored]

    def _reply(
        self,
        request: Request,
        scored: Sequence[tuple[Prepared, Prediction] | InputError],
        request_id: str,
        measured: Measured,
    ) -> Reply:
        outcomes = [one if isinstance(one, InputError) else self._say(*one, request, request_id) for one in scored]
        reply = _attempt(partial(reply_to, request, outcomes, self.identity, request_id))
        if isinstance(reply, InputError):
            measured.count_request(reply.code, is_answered=False)
            return error_reply(reply, request_id)
        for one, outcome in zip(scored, outcomes, strict=True):
            if not isinstance(one, InputError) and not isinstance(outcome, InputError):
                self._count_answer(*one, measured)
        errors = [outcome.code for outcome in outcomes if isinstance(outcome, InputError)]
        measured.count_request(errors[0] if errors else OK, is_answered=len(errors) < len(outcomes))
        return reply

    def _say(self, film: Prepared, scored: Prediction, request: Request, request_id: str) -> Answer | InputError:
        spec = self.predictor.spec
        return _attempt(partial(answer_of, scored, film.film, request.options, spec, self.identity, request_id))

    def _count_answer(self, prepared: Prepared, prediction: Prediction, measured: Measured) -> None:
        probability = float(prediction.probabilities[1])
        measured.count("cxr_predictions_total", prediction.label)
        if prediction.indeterminate:
            measured.count("cxr_indeterminate_total")
        if prediction.rescored:
            measured.count("cxr_rescored_total")
        measured.observe("cxr_probability_pneumonia", probability)
        if self.drift is not None:
            info = prepared.film.info
            self.drift.add(prepared.tensor_film, info.width, info.height, probability)


def _film(data: bytes, options: Options, least_side: int | None) -> Film:
    """The film in a file; of one that its tags say is none, where the request says that it is."""
    try:
        return decode(data, least_side)
    except TagRefusal as refusal:
        if options.view in (None, LATERAL) or refusal.film is None:
            raise
        return refusal.film.flagged("tag_overruled")


def _attempt(step: Callable[[], _T]) -> _T | InputError:
    """What a step gives, or the error that ends the one request it was for."""
    try:
        return step()
    except Exception as error:
        return _explain(error)


def _explain(error: Exception) -> InputError:
    """What a client is told of an error."""
    if isinstance(error, InputError):
        return error.bare()
    if is_out_of_memory(error):
        return InputError("OUT_OF_MEMORY", "the server has no memory for this film now; send it again later.")
    # A fault of ours: this request gets a 500, the others their answers.
    # Not the message: it can hold text from the upload.
    _log.error("%s at %s", type(error).__name__, where(error))
    return InputError("INTERNAL", "the server failed on this request; its log says where.")
