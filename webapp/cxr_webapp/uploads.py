"""The bytes of one film out of a request, counted while they come in and never on disk."""

from __future__ import annotations

from typing import Any, NoReturn

from django.core.files.uploadhandler import FileUploadHandler, StopUpload
from django.http import HttpRequest

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
        If fewer bytes came than were announced.
    """
    announced = int(request.headers.get("Content-Length") or 0)
    if announced > most:
        raise TooManyBytes
    chunks: list[bytes] = []
    total = 0
    try:
        while chunk := request.read(_CHUNK):
            total += len(chunk)
            if total > most:
                raise TooManyBytes
            chunks.append(chunk)
    except OSError as error:
        raise CutOff from error
    if total < announced:
        raise CutOff
    return b"".join(chunks)


class NoFiles(FileUploadHandler):
    """Stops a form that carries a file: no view takes one, and Django would otherwise put it into a folder."""

    def new_file(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Stop before the first byte is kept."""
        raise StopUpload(connection_reset=True)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        """Keep nothing."""

    def file_complete(self, file_size: int) -> None:
        """Give no file."""
