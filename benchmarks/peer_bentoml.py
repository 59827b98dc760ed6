"""BentoML with one of the services that are compared; `pneumoscan bench peers` starts it by ``bentoml serve``.

As BentoML's documentation shows it: a class with `bentoml.service` and `bentoml.api`, the film as the body of the
request, one worker for each core. Access logs and traces are off.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Annotated, Any

from benchmarks.peer_handler import answerer

_bentoml: Any = importlib.import_module("bentoml")
_ContentType: Any = importlib.import_module("bentoml.validators").ContentType


class Peer:
    """The service as BentoML makes it in each worker; its settings are variables of the environment."""

    def __init__(self) -> None:
        self._answer = answerer(os.environ["PEER_SERVICE"], Path(os.environ["PEER_FOLDER"]))

    def predict(self, film, /):  # type: ignore[no-untyped-def]  # annotated below, where the types are known
        """The reply to one film."""
        return self._answer(film.read_bytes()).decode()


Peer.predict.__annotations__ = {
    "film": Annotated[Path, _ContentType("application/octet-stream")],
    "return": Annotated[str, _ContentType("application/json")],
}
Peer.predict = _bentoml.api(route="/predict")(Peer.predict)  # type: ignore[method-assign]
Service = _bentoml.service(
    workers=int(os.environ.get("PEER_WORKERS", "1")),
    traffic={"timeout": 120},
    logging={"access": {"enabled": False}},
)(Peer)
