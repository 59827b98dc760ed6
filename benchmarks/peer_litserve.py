"""LitServe with one of the services that are compared; `pneumoscan bench peers` starts it.

As LitServe's documentation shows it: a `LitAPI` with `decode_request`, `predict` and `encode_response`, films as base64
in JSON, one worker for each core, as many processes for HTTP as workers (its default).
"""

from __future__ import annotations

import base64
import importlib
import os
import signal
from pathlib import Path
from typing import Any

from benchmarks.peer_handler import answerer

_litserve: Any = importlib.import_module("litserve")
_Response: Any = importlib.import_module("fastapi").Response


class Api(_litserve.LitAPI):  # type: ignore[misc]  # it brings no types, and is not installed where these are checked
    """The service as LitServe makes it in each worker; it reaches there pickled."""

    service: str
    folder: Path

    def setup(self, device: str) -> None:  # noqa: ARG002
        """Load what answers, in each worker."""
        self._answer = answerer(self.service, self.folder)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe reads the annotations
        """The film's bytes."""
        return base64.b64decode(request["film"])

    def predict(self, film: bytes) -> bytes:
        """The reply's bytes."""
        return self._answer(film)

    def encode_response(self, output):  # type: ignore[no-untyped-def]  # likewise
        """The reply as it is sent."""
        return _Response(output, media_type="application/json")


def _end(number: int, frame: object) -> None:  # noqa: ARG001
    """End at once with all processes: LitServe 0.2.19 waits for its workers for ever if it is stopped as it starts."""
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serve until a signal comes; the settings are variables of the environment."""
    signal.signal(signal.SIGTERM, _end)
    api = Api()
    api.service, api.folder = os.environ["PEER_SERVICE"], Path(os.environ["PEER_FOLDER"])
    workers, port = int(os.environ["PEER_WORKERS"]), int(os.environ["PEER_PORT"])
    server = _litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=120)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
