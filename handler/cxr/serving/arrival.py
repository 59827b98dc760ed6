"""How a request came: its names, when it came in, and whether who sent it has left.

An edge in front writes all of it into headers. What a client writes there itself is taken only where nothing can hide
in it: ids that are hexadecimal, times that can be true.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# A folder of names of requests whose clients have left, one empty file each, which the edge makes.
LEFT_VARIABLE: Final = "PNEUMOSCAN_LEFT"
_ID: Final = re.compile(r"[0-9A-Fa-f-]{16,64}")
_TRACE_PARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_START: Final = re.compile(r"t=(\d{1,12}(?:\.\d{1,9})?)")
_LONGEST_WAIT_S: Final = 3600.0
_CLOCKS_APART_S: Final = 0.01  # a proxy rounds to milliseconds, and keeps the time of its last event


@dataclass(frozen=True, slots=True)
class Arrival:
    """How one request came.

    Parameters
    ----------
    request_id
        The id its sender or the edge gave it (``X-Request-Id``), else the server's own.
    trace_parent
        The span it belongs to (``traceparent``), or None.
    began
        When it was sent on to the server (``X-Request-Start``), in seconds since 1970; None where nobody says it.
    waited_s
        How long it waited from then until a worker read it.
    ticket
        The name under which the edge tells that its client has left; of one request alone, where a client may give a
        request and its repetition the same id.

    References
    ----------
    W3C Trace Context, section 3.2, ``traceparent``.
    """

    request_id: str
    trace_parent: str | None = None
    began: float | None = None
    waited_s: float = 0.0
    ticket: str = ""

    @classmethod
    def of(cls, headers: Mapping[str, Any], server_id: str, now: float | None = None) -> Arrival:
        """What the headers of a request say; what cannot be believed is as if it were not there."""
        now = time.time() if now is None else now
        said = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
        given, parent, ticket = (said.get(name, "") for name in ("x-request-id", "traceparent", "cxr-ticket"))
        began = _began(said.get("x-request-start", ""), now)
        return cls(
            given if _ID.fullmatch(given) else server_id,
            parent if _TRACE_PARENT.fullmatch(parent) else None,
            began,
            0.0 if began is None else max(0.0, now - began),
            ticket if _ID.fullmatch(ticket) else "",
        )

    def has_left(self) -> bool:
        """Whether the edge has seen its client leave."""
        folder = os.environ.get(LEFT_VARIABLE)
        return bool(folder and self.ticket) and Path(str(folder), self.ticket).exists()

    def seconds_until_now(self) -> float | None:
        """How long ago it was sent on to the server; None where nobody says when that was."""
        return None if self.began is None else max(self.waited_s, time.time() - self.began)


def _began(text: str, now: float) -> float | None:
    found = _START.fullmatch(text)
    if found is None:
        return None
    began = float(found[1])
    # A clock that was set, or another machine's: no wait that anybody would believe.
    return began if -_CLOCKS_APART_S <= now - began <= _LONGEST_WAIT_S else None
