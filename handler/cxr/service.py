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
from cxr.inputs import Options, read_request
from cxr.predict import Predictor
from cxr.replies import ModelIdentity, Reply, error_reply, prediction_reply

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
        jobs = [_attempt(partial(_prepare, one)) for one in batch]
        films = [job[0].pixels for job in jobs if not isinstance(job, InputError)]
        scored = _attempt(partial(self.predictor.predict, films))
        predictions = iter(() if isinstance(scored, InputError) else scored)
        replies: list[Reply] = []
        for one, job in zip(batch, jobs, strict=True):
            reply: Reply | InputError
            if isinstance(job, InputError):
                reply = job
            elif isinstance(scored, InputError):
                reply = scored
            else:
                film, options = job
                spec = self.predictor.spec
                reply = _attempt(
                    partial(prediction_reply, next(predictions), film, options, spec, self.identity, one.request_id)
                )
            replies.append(error_reply(reply, one.request_id) if isinstance(reply, InputError) else reply)
        return replies


def _prepare(one: Incoming) -> tuple[Film, Options]:
    data, options = read_request(one.row, one.headers)
    return decode(data), options


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
