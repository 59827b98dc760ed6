"""What every client here shares: a session that is closed at the end of its ``with`` block."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import requests


class HoldsSession:
    """A client with connections that are kept open until it is closed."""

    _session: requests.Session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept open."""
        self._session.close()
