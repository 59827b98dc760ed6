"""A running server with a small model, for test modules that ask about replies and not about the model's quality.

A module asks for it with `from tests.e2e.small_server import small_server` and takes the fixture by that name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cxr.model.spec import Preprocessing
from cxr.predict import Predictor
from pneumoscan.archive import package
from tests.cxr.networks import save_model
from tests.e2e.servers import Server, fresh_server

VERSION = "1.0.0"
BATCH_SIZE = 8
BATCHES = ("--batch-size", str(BATCH_SIZE), "--batch-delay", "20")


@dataclasses.dataclass(frozen=True)
class SmallServer:
    """A running server and the model it serves, in this process."""

    server: Server
    predictor: Predictor

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.server.ports[1]}"

    @property
    def predictions(self) -> str:
        return f"{self.url}/predictions/pneumonia"


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallServer]:
    """A ResNet-10 behind TorchServe, with the input size and limits of the model that is really served."""
    with serving(tmp_path_factory.mktemp("run"), Preprocessing()) as server:
        yield server


@contextmanager
def serving(run: Path, preprocessing: Preprocessing) -> Iterator[SmallServer]:
    """Pack a ResNet-10 and serve it until the block ends."""
    save_model(run, preprocessing=preprocessing)
    with fresh_server() as server:
        package(run, VERSION, server.store)
        # Batches, which a CPU's own defaults do not make: what a request gets must not depend on its neighbours.
        started = server.call("--detach", "--device", "cpu", "--workers", "1", "--queue", "200", *BATCHES)
        assert started.returncode == 0, started.stderr
        yield SmallServer(server, Predictor.load(run, "cpu"))
