"""A batch of requests in, one reply for each out; what is wrong with one stays with that one."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cxr.errors import InputError
from cxr.film import Film
from cxr.images import decode
from cxr.inputs import Request, read_request
from cxr.predict import Prediction, Predictor
from cxr.replies import Answer, ModelIdentity, Reply, answer_of, error_reply, reply_to

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Incoming:
    """One request as the server hands it over: its parts by name, its headers, its id."""

    row: Mapping[str, Any]
    headers: Mapping[str, str]
    request_id: str


class BatchService:
    """Answers batches with one predictor.

    Parameters
    ----------
    predictor
        What scores the films.
    identity
        What every reply says of the model.
    """

    def __init__(self, predictor: Predictor, identity: ModelIdentity) -> None:
        self.predictor = predictor
        self.identity = identity

    def answer(self, batch: Sequence[Incoming]) -> list[Reply]:
        """One reply for each request, in their order. Never raises for anything a request holds."""
        read = [_attempt(partial(read_request, one.row, one.headers)) for one in batch]
        films = [[] if isinstance(request, InputError) else _decode_all(request) for request in read]
        pixels = [film.pixels for some in films for film in some if not isinstance(film, InputError)]
        scored = _attempt(partial(self.predictor.predict, pixels))
        said: Sequence[Prediction | InputError] = [scored] * len(pixels) if isinstance(scored, InputError) else scored
        predictions = iter(said)
        replies: list[Reply] = []
        for one, request, some in zip(batch, read, films, strict=True):
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

    def _say(
        self, scored: Prediction | InputError, film: Film, request: Request, request_id: str
    ) -> Answer | InputError:
        if isinstance(scored, InputError):
            return scored
        spec = self.predictor.spec
        return _attempt(partial(answer_of, scored, film, request.options, spec, self.identity, request_id))


def _decode_all(request: Request) -> list[Film | InputError]:
    return [one if isinstance(one, InputError) else _attempt(partial(decode, one)) for one in request.films]


def _attempt(step: Callable[[], _T]) -> _T | InputError:
    """What a step gives, or the error that ends the one request it was for."""
    try:
        return step()
    except InputError as error:
        return error
    except MemoryError:
        return InputError("OUT_OF_MEMORY", "the server has no memory for this film now; send it again later.")
    except Exception as error:  # a fault of ours: this request gets a 500, the others their answers
        frame = traceback.extract_tb(error.__traceback__)[-1]
        # Not the message: it can hold text from the upload.
        _log.error("%s at %s:%s", type(error).__name__, frame.name, frame.lineno)
        return InputError("INTERNAL", "the server failed on this request; its log says where.")
