"""From a request, as TorchServe hands it to a worker, to the bytes of one film and what is asked of it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cxr.errors import InputError
from cxr.predict import TARGETS

CAM_FORMS: Final = ("none", "grid", "heatmap", "overlay")
_TARGETS: Final = ("predicted", *TARGETS)
_NOT_FILMS: Final = ("cam", "target", "model_name")


@dataclass(frozen=True, slots=True)
class Options:
    """What a request asks for beside the label.

    Parameters
    ----------
    cam
        One of `CAM_FORMS`.
    target
        ``predicted``, a class or ``contrast``.
    as_png
        Answer with the overlay itself instead of JSON.
    """

    cam: str = "grid"
    target: str = "predicted"
    as_png: bool = False


def read_request(row: Mapping[str, Any], headers: Mapping[str, Any]) -> tuple[bytes, Options]:
    """The film's bytes in a request, and its options.

    The film is the raw body, the first file of a form, or JSON ``{"data": "<base64>"}``. Options stand in headers
    (``Cxr-Cam``, ``Cxr-Target``), in form fields or JSON keys (``cam``, ``target``), or in the query of
    ``/invocations``: TorchServe 0.12 drops the query of ``/predictions`` before any handler sees it
    (pytorch/serve issue 989).

    Parameters
    ----------
    row
        Parts of the request by name, as TorchServe 0.12 makes them: ``body`` for a plain body, the field names for a
        form, query parameters beside them. JSON comes decoded or as bytes.
    headers
        The request's headers.

    Raises
    ------
    InputError
        BAD_OPTION, EMPTY_BODY, BAD_JSON or BAD_BASE64.
    """
    body = row.get("body")
    if body is None:
        body = next((value for name, value in row.items() if name not in _NOT_FILMS), None)
    if isinstance(body, str):  # TorchServe decodes text/* bodies
        body = body.encode("utf-8", "replace")
    if isinstance(body, bytes | bytearray):
        data = bytes(body)
        if data.lstrip()[:1] != b"{":
            return data, _read_options(row, headers)
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError("BAD_JSON", 'the body starts as JSON and is not; send {"data": "<base64>"}.') from error
    if body is None:
        raise InputError("EMPTY_BODY", "no body; one JPEG, PNG or DICOM file is needed. Send it as the body.")
    if not isinstance(body, dict) or not isinstance(body.get("data"), str):
        raise InputError("BAD_JSON", 'the JSON has no text under "data"; send {"data": "<base64>"}.')
    return _from_base64(body["data"]), _read_options({**row, **body}, headers)


def _read_options(fields: Mapping[str, Any], headers: Mapping[str, Any]) -> Options:
    lower = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    explain = lower.get("explain", "").lower() == "true"  # TorchServe 0.12 marks /explanations with this header
    cam = fields.get("cam", lower.get("cxr-cam", "overlay" if explain else "grid"))
    target = fields.get("target", lower.get("cxr-target", "predicted"))
    as_png = lower.get("accept", "").split(";")[0].strip().lower() == "image/png"
    return Options(_known("cam", cam, CAM_FORMS), _known("target", target, _TARGETS), as_png)


def _known(name: str, value: Any, known: tuple[str, ...]) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes | bytearray) else value
    if text not in known:
        # The value itself is not repeated: it is text from outside.
        raise InputError("BAD_OPTION", f"{name} has an unknown value; known are {', '.join(known)}.")
    return str(text)


def _from_base64(text: str) -> bytes:
    """Bytes of base64 text or of a ``data:`` URI (RFC 2397) that holds base64."""
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InputError("BAD_BASE64", "the data URI does not hold base64; send data:<type>;base64,<text>.")
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("BAD_BASE64", 'the text under "data" is not base64 (RFC 4648, padded).') from error
    if not data:
        raise InputError("EMPTY_BODY", 'the text under "data" is empty; one JPEG, PNG or DICOM file is needed.')
    return data
