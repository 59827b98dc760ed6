"""What can go wrong between a client and the server, and what the server said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cxr_client.sessions import json_in

RETRYABLE_STATUSES = frozenset({429, 503, 504, 507})
# TorchServe 0.12.0's word where as many requests wait as may, or no worker is left.
_LONGEST: Final = 1000  # characters of a text of a server
_FULL: Final = "ServiceUnavailableException"


@dataclass(frozen=True)
class Problem:
    """What an ``application/problem+json`` body says about one request.

    Parameters
    ----------
    status
        HTTP status of the reply.
    code
        Stable name for programs, such as ``TOO_SMALL``; ``HTTP_<status>`` when the body gives none.
    title, detail
        For people. The detail gives the value, the rule and the remedy.
    request_id
        The server's name for the request; its logs have it too.
    retryable
        Whether the same request can succeed later.

    References
    ----------
    RFC 9457, Problem Details for HTTP APIs.
    """

    status: int
    code: str
    title: str
    detail: str
    request_id: str | None = None
    retryable: bool = False


class ClientError(Exception):
    """Base of everything this package raises for a reason outside the calling program."""


class ServerUnreachable(ClientError):
    """No answer: nothing listens there, or nothing that can be reached from here."""


class AnswerLost(ServerUnreachable):
    """No answer to this request: the time limit passed, or the connection broke off. The next one may be answered."""


class PredictionFailed(ClientError):
    """The server answered, with something other than a prediction."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail or problem.title}")
        self.problem = problem

    @property
    def status(self) -> int:
        """HTTP status of the reply."""
        return self.problem.status

    @property
    def code(self) -> str:
        """Stable name of what was wrong."""
        return self.problem.code

    @property
    def title(self) -> str:
        """What was wrong, in a few words."""
        return self.problem.title

    @property
    def detail(self) -> str:
        """The value, the rule and the remedy."""
        return self.problem.detail

    @property
    def request_id(self) -> str | None:
        """The server's name for the request."""
        return self.problem.request_id

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later."""
        return self.problem.retryable


class PredictionRefused(PredictionFailed):
    """4xx: this film or these options cannot be answered; the message says what to change."""


class ServerFailed(PredictionFailed):
    """5xx, or a reply that is not what the contract says: the request may have been fine."""


class ManagementFailed(ClientError):
    """The management API refused or failed."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def problem_from_reply(status: int, body: bytes, headers: Mapping[str, str]) -> Problem:
    """Read what a reply with an error status says.

    Parameters
    ----------
    status
        HTTP status of the reply.
    body
        Anything: problem+json, TorchServe's own ``{"code", "type", "message"}``, a proxy's HTML, nothing.
    headers
        Headers of the reply.

    Returns
    -------
    Problem
        With every field filled, as well as the body allows.
    """
    said = _json_object(body)
    request_id = said.get("request_id") or headers.get("x-request-id")
    retryable = said.get("retryable")
    title = _text(said.get("title")) or _reason(status)
    # TorchServe's own errors: "type" is a Java class ("ModelNotFoundException"), "code" repeats the HTTP status.
    code = _text(said.get("code"))
    if not code:
        code = _text(said.get("type")) if isinstance(said.get("message"), str) else ""
    if code == _FULL:
        code = "OVERLOADED"
    detail = _text(said.get("detail")) or _text(said.get("message"))
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and not said:
        # TorchServe 0.12.0 refuses a body over max_request_size before any handler sees it, with an empty reply.
        code = "TOO_MANY_BYTES"
        detail = "The body is larger than the server's max_request_size. Send a smaller file, or raise the limit."
    return Problem(
        status=status,
        code=code or f"HTTP_{status}",
        title=title,
        detail=detail,
        request_id=shown(str(request_id)) if request_id else None,
        retryable=retryable if isinstance(retryable, bool) else status in RETRYABLE_STATUSES,
    )


def error_from_reply(status: int, body: bytes, headers: Mapping[str, str]) -> PredictionFailed:
    """The exception for a reply that is no prediction: 4xx is refused, all else is the server's failure."""
    problem = problem_from_reply(status, body, headers)
    return PredictionRefused(problem) if 400 <= status < 500 else ServerFailed(problem)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json_in(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def shown(text: str) -> str:
    """A server's text as it may be shown: one line of a length that fits a screen, without control characters."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…"


def _text(value: object) -> str:
    return shown(value) if isinstance(value, str) else ""


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown status"
