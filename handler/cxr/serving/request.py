"""From a request, as TorchServe hands it to a worker, to the bytes of its films and its options."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from cxr.errors import InputError
from cxr.films.frontal import LATERAL
from cxr.model.classes import STANDARD
from cxr.serving.regions import LEVELS

CAM_FORMS: Final = ("none", "grid", "heatmap", "overlay")
FILM_FORMS: Final = ("none", "png")
TARGETS: Final = ("predicted", *STANDARD.targets)  # of NORMAL and PNEUMONIA
VIEWS: Final = ("PA", "AP", LATERAL)
MAX_FILMS: Final = 32
_MOST_VALUES: Final = 10_000
_LONGEST_ID: Final = 128
_LONGEST_NUMBER: Final = 24
_SHAPES: Final = (
    'send {"data": "<base64>"}, {"instances": [{"b64": "<base64>"}]} or {"inputs": [{"name": "image", "datatype": '
    '"BYTES", "shape": [1], "data": ["<base64>"]}]}.'
)
_FILM_FIELD: Final = "film_picture"  # of the option `film`: in a form, `film` is the upload itself
_NOT_FILMS: Final = ("cam", "target", "view", "regions", _FILM_FIELD, "model_name")
_LONGEST_NOTE: Final = 1024  # of a form's part that is no film: a comment, an id
_LINE_BREAKS: Final = str.maketrans("", "", " \t\r\n")
_GZIP: Final = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a request.

    Parameters
    ----------
    cam
        One of `CAM_FORMS`.
    target
        ``predicted``, a class or ``contrast``.
    view
        What the client knows of the view, where the file has no tag: one of `VIEWS`, or None.
    as_png
        Answer with the overlay itself instead of JSON.
    film
        One of `FILM_FORMS`: with ``png`` the reply has the film's own picture.
    regions
        Share of the map's highest value from which on a place belongs to a region; None where none are asked for.
    """

    cam: str = "grid"
    target: str = "predicted"
    view: str | None = None
    as_png: bool = False
    film: str = "none"
    regions: float | None = None

    @property
    def needs_picture(self) -> bool:
        """True where the reply shows the film or a map of its size."""
        return self.as_png or self.film == "png" or self.cam in ("heatmap", "overlay")


@dataclass(frozen=True, slots=True)
class Request:
    """The films of one request, and its options.

    Parameters
    ----------
    films
        The bytes of each film, or why there are none; one film for ``plain``.
    options
        The options, the same for all of them.
    dialect
        ``plain``, ``v1`` (KServe V1) or ``v2`` (Open Inference Protocol): how the reply is wrapped.
    client_id
        The id a ``v2`` request gave itself, which its reply repeats.
    """

    films: tuple[bytes | InputError, ...]
    options: Options
    dialect: str = "plain"
    client_id: str = ""


def read_request(row: Mapping[str, Any], headers: Mapping[str, Any], targets: tuple[str, ...] = TARGETS) -> Request:
    """The films in a request, and its options.

    A film is the raw body, the part ``film`` of a form or else its first that is no option, or base64 in JSON:
    ``{"data": …}``, KServe V1 ``{"instances": [{"b64": …}]}``, Open Inference Protocol
    ``{"inputs": [{"datatype": "BYTES", "data": […]}]}``.
    Options stand in headers (``Cxr-Cam``, ``Cxr-Target``, ``Cxr-View``, ``Cxr-Regions``, ``Cxr-Film``), in JSON keys
    (``cam``, ``target``, ``view``, ``regions``, ``film``; for the Open Inference Protocol under ``parameters``) or form
    fields (the same, but ``film_picture`` for the last, since ``film`` is the film itself there), or as the latter in
    the query of ``/invocations``: TorchServe 0.12 drops the query of ``/predictions`` before any handler sees it
    (pytorch/serve issue 989).

    Parameters
    ----------
    row
        Parts of the request by name, as TorchServe 0.12 makes them: ``body`` for a plain body, the field names for a
        form, query parameters beside them. JSON comes decoded or as bytes.
    headers
        The request's headers.
    targets
        What the model's maps can explain.

    Raises
    ------
    InputError
        BAD_OPTION, EMPTY_BODY, BAD_JSON, SEVERAL_FILMS or UNSUPPORTED_ENCODING; what is wrong with one of several films
        is that film's entry instead.
    """
    body = _body(row)
    _refuse_encodings(headers, body)
    if isinstance(body, bytes | bytearray):
        data = bytes(body)
        if data.startswith(_GZIP):
            raise InputError("UNSUPPORTED_ENCODING", "the body is gzip; unpack it and send the file itself.")
        if not _starts_as_json(data):
            return Request((data,), _read_options(row, headers, targets))
        # Each empty list of a long list takes thirty times its text: a body of 64 MiB would fill 2 GB.
        if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _MOST_VALUES:
            raise InputError("BAD_JSON", f"the JSON has more than {_MOST_VALUES:,} values; {_SHAPES}")
        try:
            body = json.loads(data, object_pairs_hook=_each_once)  # in UTF-8, -16 or -32, with a byte order mark or not
        except (ValueError, RecursionError) as error:
            raise InputError("BAD_JSON", f"the body starts as JSON and is not; {_SHAPES}") from error
    if body is None:
        raise InputError("EMPTY_BODY", "no body; one JPEG, PNG or DICOM file is needed. Send it as the body.")
    if not isinstance(body, dict):
        raise InputError("BAD_JSON", f"the JSON is no object; {_SHAPES}")
    return _read_json(body, row, headers, targets)


def _refuse_encodings(headers: Mapping[str, Any], body: Any) -> None:
    """Name what a header says of the body where that makes it unreadable, before it is called no film.

    Raises
    ------
    InputError
        UNSUPPORTED_ENCODING.
    """
    lower = {name.lower(): value.strip().lower() for name, value in headers.items() if isinstance(value, str)}
    if lower.get("content-encoding", "identity") not in ("", "identity"):
        raise InputError("UNSUPPORTED_ENCODING", "Content-Encoding is not read; send the file as it is, without one.")
    kind = lower.get("content-type", "")
    if kind.startswith("multipart/") and isinstance(body, bytes | bytearray) and body[:2] == b"--":
        raise InputError(
            "UNSUPPORTED_ENCODING",
            "TorchServe did not take the form apart; write its type in small letters, multipart/form-data, or send the "
            "file as the body.",
        )
    if kind.startswith("application/x-www-form-urlencoded"):
        raise InputError(
            "UNSUPPORTED_ENCODING",
            "application/x-www-form-urlencoded, the default of curl and wget, takes a film apart; send it with "
            "Content-Type: application/octet-stream.",
        )


def _body(row: Mapping[str, Any]) -> Any:
    """The body of a request, or the one part of its form that is a film.

    TorchServe 0.12 gives the parts' names and bytes, of equal names the last, and no file names. So a film is what
    starts as one, and what is too long for a note.

    Raises
    ------
    InputError
        SEVERAL_FILMS.
    """
    # TorchServe decodes text/* parts.
    parts = {
        name: value.encode("utf-8", "replace") if isinstance(value, str) else value
        for name, value in row.items()
        if name not in _NOT_FILMS
    }
    films = [value for value in parts.values() if _is_film(value)]
    if len(films) > 1:
        raise InputError(
            "SEVERAL_FILMS",
            f"{len(films)} parts of the form are films, and an answer is for one; send one form for each, or up to "
            f'{MAX_FILMS} films as {{"instances": [{{"b64": "<base64>"}}, ...]}}.',
        )
    if films:
        return films[0]
    return parts.get("body", parts.get("film", next(iter(parts.values()), None)))


def _is_film(part: Any) -> bool:
    if not isinstance(part, bytes | bytearray):
        return part is not None  # JSON that was decoded
    is_image = part.startswith((b"\xff\xd8\xff", b"\x89PNG")) or part[128:132] == b"DICM"
    return is_image or len(part) > _LONGEST_NOTE or _starts_as_json(bytes(part[:256]))


def _starts_as_json(data: bytes) -> bool:
    """Whether bytes start as an object or a list in UTF-8, -16 or -32 (RFC 8259 section 8.1), as no film does."""
    if data[128:132] == b"DICM":  # after a preamble that may hold anything
        return False
    head = data[:64].decode(json.detect_encoding(data[:64]), "replace")
    return head.lstrip("\ufeff \t\r\n")[:1] in ("{", "[")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON none of whose keys stands twice: which one counts would be anybody's guess.

    Raises
    ------
    ValueError
        One does.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice")
    return made


def asks_for_card(row: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """Whether this is TorchServe's own question: ``GET /models/pneumonia?customized=true`` on the management API.

    TorchServe 0.12 turns it into a request with this header and no body.
    """
    return str(headers.get("describe", "")).lower() == "true" and not any(row.values()) and "body" not in row


def _read_json(
    body: dict[str, Any], row: Mapping[str, Any], headers: Mapping[str, Any], targets: tuple[str, ...]
) -> Request:
    if "instances" in body:
        instances = _few(body["instances"])
        texts = [one.get("b64") if isinstance(one, dict) else None for one in instances]
        return Request(_films(texts), _read_options(_fields(row, body), headers, targets, several=True), "v1")
    if "inputs" in body:
        inputs = body["inputs"]
        tensor = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else None
        if not isinstance(tensor, dict) or tensor.get("datatype") != "BYTES":
            raise InputError("BAD_JSON", f'"inputs" is not one tensor of datatype BYTES; {_SHAPES}')
        parameters = body.get("parameters", {})
        if not isinstance(parameters, dict):
            raise InputError("BAD_JSON", f'"parameters" is no object; {_SHAPES}')
        client_id = body.get("id")
        return Request(
            _films(_few(tensor.get("data"))),
            _read_options(_fields(row, parameters), headers, targets, several=True),
            "v2",
            client_id if isinstance(client_id, str) and len(client_id) <= _LONGEST_ID else "",
        )
    if not isinstance(body.get("data"), str):
        raise InputError("BAD_JSON", f'the JSON has no text under "data"; {_SHAPES}')
    return Request((_from_base64(body["data"]),), _read_options(_fields(row, body), headers, targets))


def _fields(row: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Form fields and JSON keys together, the latter first; the key ``film`` of JSON is the option and no upload."""
    renamed = {_FILM_FIELD if name == "film" else name: value for name, value in keys.items() if name != _FILM_FIELD}
    return {**row, **renamed}


def _few(films: Any) -> list[Any]:
    """The entries of a request with several films."""
    if not isinstance(films, list):
        raise InputError("BAD_JSON", f"the films are no list; {_SHAPES}")
    if not films:
        raise InputError("EMPTY_BODY", "the list of films is empty; at least one film is needed.")
    if len(films) > MAX_FILMS:
        raise InputError("BAD_JSON", f"{len(films)} films; at most {MAX_FILMS} go into one request. Send several.")
    return films


def _films(texts: list[Any]) -> tuple[bytes | InputError, ...]:
    """The bytes behind each base64 text, or what is wrong with it."""
    films: list[bytes | InputError] = []
    for text in texts:
        try:
            if not isinstance(text, str):
                raise InputError("BAD_JSON", f"a film is no text; {_SHAPES}")
            films.append(_from_base64(text))
        except InputError as error:
            films.append(error.bare())
    return tuple(films)


def _read_options(
    fields: Mapping[str, Any], headers: Mapping[str, Any], targets: tuple[str, ...], *, several: bool = False
) -> Options:
    lower = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    explain = lower.get("explain", "").lower() == "true"  # TorchServe 0.12 marks /explanations with this header
    cam = _option("cam", CAM_FORMS, fields, lower) or ("overlay" if explain else "grid")
    target = _option("target", targets, fields, lower) or "predicted"
    as_png = not several and lower.get("accept", "").split(";")[0].strip().lower() == "image/png"
    film = _option("film", FILM_FORMS, fields, lower, _FILM_FIELD) or "none"
    regions = [_level(value) for value in _given("regions", fields, lower)] or [None]
    if regions[0] is not None and cam == "none":
        raise InputError("BAD_OPTION", "regions are those of a map, and cam is none; leave one of the two out.")
    return Options(cam, target, _option("view", VIEWS, fields, lower), as_png, film, regions[0])


def _option(
    name: str, known: tuple[str, ...], fields: Mapping[str, Any], headers: Mapping[str, str], field: str | None = None
) -> str | None:
    """The value of an option in the body's field (the option's name), else in its header; both have to be known."""
    values = [_known(name, value, known) for value in _given(name, fields, headers, field)]
    return values[0] if values else None


def _given(name: str, fields: Mapping[str, Any], headers: Mapping[str, str], field: str | None = None) -> list[Any]:
    """What body and header have of an option, that of the body first; bytes as text."""
    places = ((fields, field or name), (headers, f"cxr-{name}"))
    values = [source[key] for source, key in places if key in source]
    return [value.decode("ascii", "replace") if isinstance(value, bytes | bytearray) else value for value in values]


def _level(value: Any) -> float | None:
    """The level of the regions; None for ``none``."""
    if value == "none":
        return None
    number = math.nan
    if isinstance(value, str | float) and len(str(value)) <= _LONGEST_NUMBER:
        with suppress(ValueError):
            number = float(value)
    if not LEVELS[0] <= number <= LEVELS[1]:  # a NaN is in no order with anything
        low, high = LEVELS
        raise InputError(
            "BAD_OPTION", f"regions has an unknown value; known are none and numbers from {low} to {high}."
        )
    return number


def _known(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        # The value itself is not repeated: it is text from outside.
        raise InputError("BAD_OPTION", f"{name} has an unknown value; known are {', '.join(known)}.")
    return str(value)


def _from_base64(text: str) -> bytes:
    """Bytes of base64 text or of a ``data:`` URI (RFC 2397) that holds base64.

    Read is what can mean one thing only: line breaks (RFC 2045), the alphabet for URLs (RFC 4648 section 5) and a
    missing padding.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InputError("BAD_BASE64", "the data URI does not hold base64; send data:<type>;base64,<text>.")
    text = text.translate(_LINE_BREAKS)
    if ("-" in text or "_" in text) and not ("+" in text or "/" in text):
        text = text.replace("-", "+").replace("_", "/")
    try:
        padded = text if text.endswith("=") else text + "=" * (-len(text) % 4)
        data = base64.b64decode(padded.encode("ascii"), validate=True)
        # A text that was cut off looks like one without padding, but for bits that would not be there.
        if padded != text and base64.b64encode(data[-(len(data) % 3 or 3) :]).decode() != padded[-4:]:
            raise ValueError("the text was cut off")
    except (binascii.Error, ValueError) as error:
        raise InputError("BAD_BASE64", "the text is not base64 (RFC 4648).") from error
    if not data:
        raise InputError("EMPTY_BODY", "the text is empty; one JPEG, PNG or DICOM file as base64 is needed.")
    return data
