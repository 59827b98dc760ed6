"""One film on its way: out of the browser's request, to the inference server, and back with an answer or a trouble.

A trouble is what went wrong, in a form that the page has a message for.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from functools import cache
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import Any, NoReturn

from django.conf import settings
from django.core.files.uploadhandler import FileUploadHandler, StopUpload
from django.http import HttpRequest

from cxr_client import AnswerLost, ClientError, Decision, InferenceClient, PredictionFailed, ServerUnreachable

CONNECTIONS = 16  # films that are asked about at once; who waits holds no more than his film
_IDLE_S = 10.0  # without a byte of a body that was announced
_SENDING_S = 120.0  # for a whole body
# The map that speaks for PNEUMONIA (or the positive classes) above 0 and for the rest below: it means the same
# whichever label a film got.
TARGET = "contrast"
LONGEST_LABEL = 16
_CHUNK = 256 * 1024


class TooManyBytes(Exception):
    """The film is larger than the server would read."""


class CutOff(Exception):
    """The connection ended before the film did."""


def read_film(request: HttpRequest, most: int) -> bytes:
    """The raw body of a request.

    The browser sends the film alone, without a form around it: so there is no file name to distrust, and none that
    could tell of a patient.

    Parameters
    ----------
    most
        Bytes that are read; what comes after them is not.

    Raises
    ------
    TooManyBytes
        As soon as it is known: by the announced length, or when the next byte would be one too many.
    CutOff
        If fewer bytes came than were announced, or none for `_IDLE_S`, or not all within `_SENDING_S`.
    """
    announced = int(request.headers.get("Content-Length") or 0)
    if announced > most:
        raise TooManyBytes
    body, deadline = _body(request), time.monotonic() + _SENDING_S
    chunks: list[bytes] = []
    total = 0
    try:
        while chunk := body.read(_CHUNK):
            if time.monotonic() > deadline:
                raise CutOff
            total += len(chunk)
            if total > most:
                raise TooManyBytes
            chunks.append(chunk)
    except OSError as error:
        raise CutOff from error
    if total < announced:
        raise CutOff
    return b"".join(chunks)


def _body(request: HttpRequest) -> Any:
    """The stream of a request's body, which gives up on a client that sends nothing more.

    Django 5.2 takes a body without a length for an empty one, though gunicorn ends the stream where its chunks end.
    """
    environ = request.META
    if socket := environ.get("gunicorn.socket"):
        socket.settimeout(_IDLE_S)
    chunked = environ.get("wsgi.input_terminated") and "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    return environ["wsgi.input"] if chunked else request


class NoFiles(FileUploadHandler):
    """Stops a form that carries a file: no view takes one, and Django would otherwise put it into a folder."""

    def new_file(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Stop before the first byte is kept."""
        raise StopUpload(connection_reset=True)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        """Keep nothing."""

    def file_complete(self, file_size: int) -> None:
        """No file."""


@dataclass(frozen=True)
class Trouble:
    """The reason why a film has no answer.

    Parameters
    ----------
    kind
        ``down`` nobody answers; ``slow`` no answer in time; ``overloaded`` busy, later; ``key`` the key is refused;
        ``refused`` this film cannot be answered; ``failed`` a fault of the server; of the page itself ``size``,
        ``cut`` and ``notice`` (the notice was not acknowledged).
    status
        HTTP status of the page's own answer.
    code
        The server's stable code, or one of the page's.
    detail
        The server's explanation, where it gave one.
    retryable
        Whether the same film can be answered later.
    """

    kind: str
    status: int
    code: str
    detail: str = ""
    retryable: bool = False
    request_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The body of an error answer."""
        return {"error": asdict(self)}


@cache
def _asking() -> BoundedSemaphore:
    return BoundedSemaphore(CONNECTIONS)


@cache
def client() -> InferenceClient:
    """The one client of this process; threads share it."""
    return InferenceClient(
        settings.PNEUMOSCAN_URL,
        timeout_s=settings.PNEUMOSCAN_TIMEOUT_S,
        connections=CONNECTIONS,
        key=settings.PNEUMOSCAN_KEY or None,
    )


def ask(film: bytes, view: str | None = None) -> dict[str, Any] | Trouble:
    """Ask the server about one film.

    Parameters
    ----------
    view
        What the reader knows of the view, for a film that was refused as not frontal.

    Returns
    -------
    The server's reply with the film's own picture and the heat map, or why there is none. The picture is the film as
    the server decoded it: no second decoder can show another film than the one that was scored.
    """
    try:
        with _asking():
            answer = client().predict(film, cam="heatmap", target=TARGET, view=view, film_picture=True)
    except ClientError as error:
        return trouble_of(error)
    if not is_reply(answer):
        return Trouble("failed", HTTPStatus.BAD_GATEWAY, "BAD_REPLY", retryable=True)
    return answer


def trouble_of(error: ClientError) -> Trouble:
    """The trouble of an exception of the client. The server's address stays here: it is not the reader's."""
    if isinstance(error, AnswerLost):
        return Trouble("slow", HTTPStatus.GATEWAY_TIMEOUT, "SERVER_SLOW", retryable=True)
    if isinstance(error, ServerUnreachable):
        return Trouble("down", HTTPStatus.BAD_GATEWAY, "SERVER_DOWN", retryable=True)
    if not isinstance(error, PredictionFailed):
        return Trouble("failed", HTTPStatus.BAD_GATEWAY, "SERVER_FAILED", retryable=True)
    if error.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Trouble("key", HTTPStatus.BAD_GATEWAY, "WRONG_KEY", retryable=True, request_id=error.request_id)
    code, detail, request_id = error.code, error.detail, error.request_id
    if error.retryable:
        return Trouble("overloaded", HTTPStatus.SERVICE_UNAVAILABLE, code, detail, True, request_id)
    if error.status == HTTPStatus.NOT_FOUND:  # no such model there, or no such server
        return Trouble("failed", HTTPStatus.BAD_GATEWAY, "NO_MODEL", retryable=True, request_id=error.request_id)
    if 400 <= error.status < 500:
        return Trouble("refused", HTTPStatus.UNPROCESSABLE_ENTITY, code, detail, False, request_id)
    return Trouble("failed", HTTPStatus.BAD_GATEWAY, code, detail, True, request_id)


def is_reply(answer: object) -> bool:
    """True where an answer has everything the page and its history read, of the right kind.

    An edge or a login page can answer 200 with anything.
    """
    match answer:
        case {
            "model": {"version": str(), "weights_sha256": str()},
            "label": str() as label,
            "probabilities": {**probabilities},
            "logits": {**logits},
            "decision": {"threshold": threshold},
            "cam": {"grid": [[*first], *rows], "bias": bias, "png": str()},
            "image": {"format": str(), "width": int(), "height": int(), "flags": list(), "png": str()},
        }:
            cells = [*first, *(cell for row in rows if isinstance(row, list) for cell in row)]
            even = all(isinstance(row, list) and len(row) == len(first) for row in rows)
            numbers = (*probabilities.values(), *logits.values(), threshold, bias, *cells)
            known = label in probabilities and probabilities.keys() == logits.keys() and len(label) <= LONGEST_LABEL
            return even and known and all(map(is_number, numbers)) and _has_decision(answer)
    return False


def _has_decision(answer: Any) -> bool:
    try:
        decided = Decision.of(answer)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return (
        bool(decided.positive) and {*decided.positive} < {*answer["probabilities"]} and is_number(decided.probability)
    )


def is_number(value: object) -> bool:
    """Whether a value of a reply or of a card is a number that can be shown: finite, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
