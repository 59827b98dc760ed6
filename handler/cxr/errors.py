"""Errors that name themselves.

CxrError
├── InputError      what a client sent cannot be answered; has an HTTP status and a stable code
└── ModelError      a run, a spec or an archive is not what it claims to be; a worker with one never becomes ready
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class Code:
    """The meaning of one error code over HTTP."""

    status: int
    title: str
    retryable: bool = False


CODES: Final[dict[str, Code]] = {
    "EMPTY_BODY": Code(400, "The request holds no film"),
    "BAD_BASE64": Code(400, "The film is not valid base64"),
    "BAD_JSON": Code(400, "The body is not a JSON request this server knows"),
    "SEVERAL_FILMS": Code(400, "The form holds more than one film"),
    "BAD_OPTION": Code(400, "An option has a value this server does not know"),
    "TOO_MANY_BYTES": Code(413, "The film has too many bytes"),
    "TOO_MANY_PIXELS": Code(413, "The film has too many pixels"),
    "UNKNOWN_FORMAT": Code(415, "The file is neither JPEG, PNG nor DICOM"),
    "UNSUPPORTED_ENCODING": Code(415, "The body is encoded in a way this server does not read"),
    "UNSUPPORTED_TRANSFER_SYNTAX": Code(415, "The DICOM file is compressed in a way this server does not read"),
    "DAMAGED_IMAGE": Code(422, "The image cannot be decoded"),
    "NOT_A_RADIOGRAPH": Code(422, "The image is not a chest radiograph"),
    "NOT_FRONTAL": Code(422, "The film is not a frontal view"),
    "MULTI_FRAME": Code(422, "The file holds more than one frame"),
    "TOO_SMALL": Code(422, "The film is too small"),
    "NO_CONTRAST": Code(422, "The film is one even grey"),
    "NOT_FINITE": Code(500, "The model's answer is not a finite number"),
    "INTERNAL": Code(500, "The server failed on this film"),
    "OVERLOADED": Code(503, "The server has too much to do", retryable=True),
    "WORKER_LOST": Code(503, "The server lost its GPU and starts anew", retryable=True),
    "OUT_OF_MEMORY": Code(507, "The server ran out of memory", retryable=True),
}


_LONGEST_DETAIL: Final = 500  # characters


class CxrError(Exception):
    """Anything PneumoScan raises on purpose.

    Parameters
    ----------
    exit_status
        What a command ends with after this error: 1 it failed, 2 what was asked for cannot be done.
    """

    exit_status: ClassVar[int] = 1


class InputError(CxrError):
    """What a client sent cannot be answered.

    Parameters
    ----------
    code
        A key of `CODES`.
    detail
        The value that was seen, the rule it broke and what to do about it. Never holds text taken from the upload
        itself, so that no patient data can reach a reply or a log. One that is longer than a few lines is cut.
    """

    def __init__(self, code: str, detail: str) -> None:
        detail = detail if len(detail) <= _LONGEST_DETAIL else f"{detail[: _LONGEST_DETAIL - 1]}…"
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def bare(self) -> InputError:
        """The same error without the frames it came through, which hold the upload and keep it in memory."""
        return InputError(self.code, self.detail)

    @property
    def status(self) -> int:
        """The HTTP status of the reply."""
        return CODES[self.code].status

    @property
    def title(self) -> str:
        """The code in one plain sentence, the same for every film."""
        return CODES[self.code].title

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later."""
        return CODES[self.code].retryable


class ModelError(CxrError):
    """A run, a spec or an archive is not what it claims to be."""

    exit_status = 2
