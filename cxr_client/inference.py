"""Films in, predictions out: ``POST /predictions/pneumonia``."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NewConnectionError

from cxr_client.errors import AnswerLost, Problem, ServerFailed, ServerUnreachable, error_from_reply, shown
from cxr_client.sessions import MOST_BYTES, HoldsSession, ReplyTooLarge, body_of, json_in, timed

MODEL_NAME = "pneumonia"
CAMS = ("none", "grid", "heatmap", "overlay")
TARGETS = ("predicted", "NORMAL", "PNEUMONIA", "contrast")  # of a model of NORMAL and PNEUMONIA; others have theirs
VIEWS = ("PA", "AP", "LATERAL")

CONNECT_TIMEOUT_S = 5.0
_PNEUMONIA: Final = "PNEUMONIA"


@dataclass(frozen=True)
class Decision:
    """What decided in a reply.

    Parameters
    ----------
    positive
        The classes whose probability together decides: PNEUMONIA, where the reply names no others.
    probability
        That probability.
    is_positive
        Whether the film is called one of them.
    """

    positive: tuple[str, ...]
    probability: float
    is_positive: bool

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> Decision:
        """The decision in a reply of `InferenceClient.predict`.

        Raises
        ------
        KeyError, TypeError, ValueError
            The reply has none.
        """
        group = (reply.get("decision") or {}).get("positive")
        if group is None:
            return cls((_PNEUMONIA,), float(reply["probabilities"][_PNEUMONIA]), reply["label"] == _PNEUMONIA)
        return cls(tuple(map(str, group["classes"])), float(group["probability"]), bool(group["called"]))


class InferenceClient(HoldsSession):
    """Asks one server about films. May be shared by threads; retries nothing.

    Parameters
    ----------
    url
        Where the server's inference API is, ``http://host:port``.
    timeout_s
        How long one reply may take. A CPU server with a full queue needs tens of seconds.
    connections
        Connections kept open; give the number of threads that share the client.
    key
        Sent as ``Authorization: Bearer <key>``, for a server behind an edge that asks for one.
    ca
        PEM file of the certificates that are believed, for an edge that signed its own.

    Raises
    ------
    ValueError
        If the key has a character that no header can hold.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        timeout_s: float = 60.0,
        connections: int = 8,
        key: str | None = None,
        ca: Path | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        # Given with every request: requests would put REQUESTS_CA_BUNDLE before a setting of the session.
        self._verify = str(ca) if ca is not None else None
        self._session = timed(requests.Session(), connections)
        # A film meant for this machine must not travel to the proxy that HTTP_PROXY names.
        self._session.trust_env = not is_loopback(self.url)
        if key and not all("!" <= character <= "~" for character in key):
            raise ValueError("the key has a space, a line break or a letter that is not ASCII: give one line of ASCII")
        if key:
            # As auth and not as a header of the session: requests would put a netrc entry of the host in its place.
            self._session.auth = _Bearer(key)

    def predict(
        self,
        film: bytes | Path,
        cam: str = "grid",
        target: str = "predicted",
        version: str | None = None,
        view: str | None = None,
        *,
        film_picture: bool = False,
        regions: float | None = None,
    ) -> dict[str, Any]:
        """The server's reply about one film.

        Parameters
        ----------
        film
            A JPEG, PNG or DICOM file, or its bytes. The server finds the format from the bytes.
        cam
            What the reply's ``cam`` holds: the 7 x 7 map in logits, and with the last two a base64 PNG as well.
        target
            Which logit the map explains: ``predicted``, a class of the model, or ``contrast``.
        version
            Version of the model; the server's default version without it.
        view
            What is known of the view, for a file without a tag that says it.
        film_picture
            Also have the film's own picture in the reply: ``image.png``, grey, base64, at most 1024 pixels a side.
        regions
            Also have ``cam.regions``: outlines and boxes in the film's own pixels, with their share of the evidence,
            where the map reaches this share of its highest value, 0.05 to 0.95.

        Returns
        -------
        dict
            The JSON object of the contract: label, probabilities, logits, decision, cam, image, model, notice.

        Raises
        ------
        PredictionRefused
            4xx: the film or an option cannot be answered.
        ServerFailed
            5xx, or a 200 whose body is not the contract's JSON object.
        AnswerLost
            No answer within the time limit, or a connection that broke off.
        ServerUnreachable
            Nobody to ask.
        """
        options = {
            "cam": cam,
            "target": target,
            "view": view,
            "regions": None if regions is None else f"{regions:g}",
            "film": "png" if film_picture else None,
        }
        reply, body = self._post(film, options, version, accept="application/json")
        try:
            value = json_in(body)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not _is_as_promised(value):
            raise ServerFailed(_bad_reply(reply, len(body), "a JSON object as the contract has it"))
        return value

    def overlay(
        self, film: bytes | Path, target: str = "predicted", version: str | None = None, view: str | None = None
    ) -> bytes:
        """The overlay of one film as PNG bytes, at the film's own aspect ratio; see `predict` for the rest."""
        options = {"cam": "overlay", "target": target, "view": view}
        reply, body = self._post(film, options, version, accept="image/png")
        if not body.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ServerFailed(_bad_reply(reply, len(body), "a PNG"))
        return body

    def _post(
        self, film: bytes | Path, options: dict[str, str | None], version: str | None, accept: str
    ) -> tuple[requests.Response, bytes]:
        if not isinstance(film, bytes | Path):
            # A str would be sent as the film itself.
            raise TypeError(f"film is {type(film).__name__}: give bytes, or pathlib.Path(...) for a file")
        path = f"/predictions/{MODEL_NAME}" + (f"/{quote(version, safe='')}" if version else "")
        asked = {name: value for name, value in options.items() if value is not None}
        deadline = time.monotonic() + self.timeout_s
        try:
            reply = self._session.post(
                self.url + path,
                params=asked,
                data=film if isinstance(film, bytes) else film.read_bytes(),
                # With requests' default, no type at all, TorchServe would guess; a form type is answered with 500.
                # The options again as headers: TorchServe 0.12.0 drops the query of /predictions, no handler sees it.
                headers={
                    "Content-Type": "application/octet-stream",
                    "Accept": accept,
                    **{f"Cxr-{name.title()}": value for name, value in asked.items()},
                    **self._start(),
                },
                timeout=(CONNECT_TIMEOUT_S, self.timeout_s),
                allow_redirects=False,
                verify=self._verify,
                stream=True,
            )
            body = bytes(body_of(reply, deadline))
        except ReplyTooLarge as error:
            raise ServerFailed(_bad_reply(reply, error.received, f"at most {MOST_BYTES:,} bytes")) from error
        except (requests.ReadTimeout, TimeoutError) as error:
            raise AnswerLost(f"{without_password(self.url)} did not answer within {self.timeout_s:g} s") from error
        except HTTPError as error:  # of the body: a timeout, a connection that broke off, packing that is damaged
            raise AnswerLost(f"{without_password(self.url)} broke off: {shown(str(error))}") from error
        except requests.RequestException as error:
            if _never_connected(error):
                raise ServerUnreachable(f"cannot reach {without_password(self.url)}: {_reason(error)}") from error
            raise AnswerLost(f"{without_password(self.url)} broke off: {_reason(error)}") from error
        if not 200 <= reply.status_code < 300:
            raise error_from_reply(reply.status_code, body, reply.headers)
        return reply, body

    def _start(self) -> dict[str, str]:
        """When the request is sent, for the server's measure of how long it takes: only to a server of this clock."""
        return {"X-Request-Start": f"t={time.time():.3f}"} if is_loopback(self.url) else {}


class _Bearer(AuthBase):
    """RFC 6750 section 2.1."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _bad_reply(reply: requests.Response, received: int, promised: str) -> Problem:
    kind = shown(reply.headers.get("Content-Type", "no content type"))
    return Problem(
        status=reply.status_code,
        code="BAD_REPLY",
        title="Not the reply that was promised",
        detail=f"The reply is not {promised} but {received:,} bytes of {kind}. Is this a PneumoScan server?",
        request_id=shown(reply.headers.get("x-request-id", "")) or None,
    )


def _is_as_promised(reply: dict[str, Any]) -> bool:
    """Whether what readers of a reply rely on has the contract's types, where it is there, and can be shown."""
    parts = [reply.get(name) for name in ("model", "probabilities", "logits", "decision", "image", "cam")]
    if not all(part is None or isinstance(part, dict) for part in parts):
        return False
    numbers = [*(reply.get("probabilities") or {}).values(), *(reply.get("logits") or {}).values()]
    flags = (reply.get("image") or {}).get("flags") or []
    texts = [reply.get("label", ""), *(flags if isinstance(flags, list) else [None])]
    return all(isinstance(one, int | float) for one in numbers) and all(
        isinstance(one, str) and one == shown(one) for one in texts
    )


def without_password(url: str) -> str:
    """The address as it may be shown: no user and no password in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own, which a proxy could not reach."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _never_connected(error: requests.RequestException) -> bool:
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError):
        return False  # the answer had begun
    before_any_film = isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError)
    if before_any_film or not isinstance(error, requests.ConnectionError):
        return True
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    return any(isinstance(link, NewConnectionError) for link in chain)


def _reason(error: requests.RequestException) -> str:
    """The innermost cause: requests wraps "Connection refused" three times over."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return shown(str(cause)) or type(cause).__name__
