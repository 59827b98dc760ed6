"""The servers that are compared: what each is called, how it is started, and how a film is sent to it."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.http import post
from benchmarks.load import OCTETS
from benchmarks.processes import Tree
from benchmarks.servers import (
    REPOSITORY,
    Running,
    WrongUsage,
    answers,
    environment,
    free_ports,
    process,
    served_archive,
    wait_until,
)
from benchmarks.torchserve import torchserve
from pneumoscan.server.torchserve import HOST


@dataclass(frozen=True, slots=True)
class Peer:
    """One server of a comparison.

    Parameters
    ----------
    name
        As results call it.
    server
        ``pneumoscan``, ``torchserve``, ``litserve`` or ``bentoml``.
    service
        What it answers with: one of `benchmarks.peer_handler`, or ``stock``.
    needs
        Packages without which it cannot run.
    """

    name: str
    server: str
    service: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where servers are started, and from what.

    Parameters
    ----------
    archive, unpacked
        Ours, and the folder it is unpacked to.
    folder
        For what servers write; its path is short.
    python
        The interpreter that has the other servers' packages.
    workers
        Of each server.
    """

    archive: Path
    unpacked: Path
    folder: Path
    python: str
    workers: int


NO_MODEL: Final = (
    Peer("PneumoScan", "torchserve", "null"),  # our HTTP path is TorchServe in our configuration
    Peer("LitServe", "litserve", "null", ("litserve",)),
    Peer("BentoML", "bentoml", "null", ("bentoml",)),
)
MODEL: Final = (
    Peer("PneumoScan", "pneumoscan", "ours"),
    Peer("LitServe, our model", "litserve", "ours", ("litserve",)),
    Peer("BentoML, our model", "bentoml", "ours", ("bentoml",)),
    Peer("LitServe, eager", "litserve", "eager", ("litserve",)),
    Peer("BentoML, eager", "bentoml", "eager", ("bentoml",)),
    Peer("TorchServe, stock", "torchserve", "stock", ("captum",)),
    Peer("TorchServe, tutorial", "torchserve", "map"),
)


def request_to(peer: Peer, server: Running, film: bytes) -> bytes:
    """A film as this server wants it."""
    if peer.server == "litserve":  # it reads JSON and forms alone
        body = json.dumps({"film": base64.b64encode(film).decode()}).encode()
        return post(server.address, server.path, body, "application/json")
    return post(server.address, server.path, film, OCTETS)


def versions_in(python: str) -> dict[str, str]:
    """Versions of the compared packages that an interpreter has.

    Raises
    ------
    WrongUsage
        There is no such interpreter.
    """
    program = (
        "import importlib.metadata as m, json\nfound = {}\n"
        "for name in ('litserve', 'bentoml', 'captum', 'torch', 'torchserve', 'openvino'):\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, env=environment())
    except (OSError, subprocess.CalledProcessError) as error:
        raise WrongUsage(f"{python} is not a Python that runs ({error}): give another --python") from error
    return {str(name): str(version) for name, version in json.loads(done.stdout).items()}


def start(peer: Peer, place: Place, film: bytes) -> AbstractContextManager[Running]:
    """The server, started and stopped with a block; `film` has to be answered before it counts as started."""
    if peer.server == "pneumoscan":
        return served_archive(place.archive, place.folder, ("--device", "cpu"))
    if peer.server == "torchserve":
        return torchserve(peer.service, place.unpacked, place.folder, place.python, place.workers)
    return _python_server(peer, place, film)


@contextmanager
def _python_server(peer: Peer, place: Place, film: bytes) -> Iterator[Running]:
    (port,) = free_ports(1)
    place.folder.mkdir(parents=True)
    service = ["--service", peer.service, "--folder", str(place.unpacked), "--workers", str(place.workers)]
    command = [place.python, "-m", "benchmarks.peer_litserve", "--port", str(port), *service]
    variables = environment(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        TMPDIR=str(place.folder),
        BENTOML_DO_NOT_TRACK="True",
        BENTOML_HOME=str(place.folder / "bentoml"),
        PEER_SERVICE=peer.service,
        PEER_FOLDER=str(place.unpacked),
        PEER_WORKERS=str(place.workers),
    )
    if peer.server == "bentoml":
        command = [place.python, "-m", "bentoml", "serve", "benchmarks.peer_bentoml:Service"]
        command += ["--host", HOST, "--port", str(port), "--working-dir", str(REPOSITORY)]
    log = place.folder / "out.log"
    with process(command, log, variables) as started:
        server = Running((HOST, port), "/predict", Tree(started.pid))
        request = request_to(peer, server, film)
        wait_until(lambda: answers(server.address, request), started, log, peer.name)
        yield server
