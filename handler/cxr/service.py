"""A batch of requests in, one reply for each out; what is wrong with one stays with that one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from cxr.card import model_card
from cxr.errors import InputError
from cxr.faults import DeviceLostError, is_out_of_memory, predict_each, where
from cxr.film import Film, Pixels
from cxr.frontal import check_frontal
from cxr.images import decode
from cxr.inputs import Options, Request, asks_for_card, read_request
from cxr.predict import Prediction, Predictor
from cxr.preprocess import resize
from cxr.render import display_film
from cxr.replies import Answer, ModelIdentity, Reply, answer_of, card_reply, error_reply, reply_to

# Of a batch. TorchServe replaces a worker that takes longer than responseTimeout, 120 s in model-config.yaml, and
# fails all requests of its batch; a batch of 256 films needs the rest on two cores.
_DECODING_S: Final = 40.0
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
    """

    def __init__(
        self,
        predictor: Predictor,
        identity: ModelIdentity,
        metrics: Mapping[str, Any] | None = None,
        audit: Mapping[str, Any] | None = None,
    ) -> None:
        self.predictor = predictor
        self.identity = identity
        self.card = card_reply(model_card(predictor.spec, asdict(identity), metrics, audit))
        self.is_lost = False  # the device fails every call: the process has to end

    def answer(self, batch: Sequence[Incoming]) -> list[Reply]:
        """One reply for each request, in their order. Never raises for anything a request holds."""
        deadline = time.monotonic() + _DECODING_S
        read = [
            None if asks_for_card(one.row, one.headers) else _attempt(partial(read_request, one.row, one.headers))
            for one in batch
        ]
        films = [self._prepare_all(request, deadline) if isinstance(request, Request) else [] for request in read]
        predictions = iter(self._score([one for some in films for one in some if not isinstance(one, InputError)]))
        replies: list[Reply] = []
        for one, request, some in zip(batch, read, films, strict=True):
            if request is None:
                replies.append(self.card)
                continue
            if isinstance(request, InputError):
                replies.append(error_reply(request, one.request_id))
                continue
            outcomes = [
                film if isinstance(film, InputError) else self._say(next(predictions), film, request, one.request_id)
                for film in some
            ]
            reply = _attempt(partial(reply_to, request, outcomes, self.identity, one.request_id))
            replies.append(error_reply(reply, one.request_id) if isinstance(reply, InputError) else reply)
        return replies

    def _prepare_all(self, request: Request, deadline: float) -> list[Prepared | InputError]:
        return [
            one if isinstance(one, InputError) else _attempt(partial(self._prepare, one, request.options, deadline))
            for one in request.films
        ]

    def _prepare(self, data: bytes, options: Options, deadline: float) -> Prepared:
        if time.monotonic() > deadline:
            raise InputError("OVERLOADED", "the films before it took too long to decode; send it again, or by itself.")
        spec = self.predictor.spec
        film = check_frontal(decode(data), options.view, spec.screen)
        tensor_film = resize(film.pixels, spec.preprocessing)
        shown = display_film(film.pixels) if options.needs_picture else tensor_film
        return Prepared(tensor_film, replace(film, pixels=shown))

    def _score(self, films: Sequence[Prepared]) -> Sequence[Prediction | InputError]:
        if not films:
            return []
        try:
            scored = predict_each(self.predictor, [one.tensor_film for one in films])
        except DeviceLostError:
            self.is_lost = True
            lost = InputError("WORKER_LOST", "the server's GPU failed and the worker starts anew; send it again.")
            return [lost] * len(films)
        return [one if isinstance(one, Prediction) else _explain(one) for one in scored]

    def _say(
        self, scored: Prediction | InputError, prepared: Prepared, request: Request, request_id: str
    ) -> Answer | InputError:
        if isinstance(scored, InputError):
            return scored
        spec = self.predictor.spec
        return _attempt(partial(answer_of, scored, prepared.film, request.options, spec, self.identity, request_id))


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
