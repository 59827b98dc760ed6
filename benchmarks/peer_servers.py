"""The servers that are compared: what each is called, how it is started, and how a film is sent to it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks.client import Address, exchange, post
from benchmarks.host import PACKAGES, Tree
from benchmarks.load import OCTETS
from benchmarks.peer_handler import SETTINGS
from benchmarks.servers import (
    REPOSITORY,
    BenchmarkError,
    Running,
    environment,
    free_ports,
    process,
    served_archive,
    tail,
    wait_until,
)
from cxr.model.network import ARCHITECTURES, read_state_dict
from cxr.model.spec import ModelSpec
from pneumoscan.errors import UsageError
from pneumoscan.resources import resource
from pneumoscan.server.capacity import HEAP_BYTES
from pneumoscan.server.run_folder import RunDir
from pneumoscan.server.torchserve import HOST, find_java, server_command

_MODEL_NAME: Final = "peer"
_WORKER_LOG: Final = "model_log.log"
_STOCK_CLASSES: Final = 5  # its handler always reports the five best classes, and fails where there are fewer
_OWN_LINES: Final = ("inference_address", "management_address", "metrics_address", "load_models", "model_store")


@dataclass(frozen=True, slots=True)
class Peer:
    """One server of a comparison."""

    name: str
    server: str  # pneumoscan, torchserve, litserve or bentoml
    service: str  # one of `benchmarks.peer_handler`, or stock: TorchServe's `image_classifier`
    needs: tuple[str, ...] = ()  # packages without which it cannot run


@dataclass(frozen=True, slots=True)
class Place:
    """Where servers are started, and from what."""

    archive: Path  # ours
    unpacked: Path
    folder: Path  # for what servers write; its path is short
    python: str  # the interpreter that has the other servers' packages
    workers: int  # of each server

    def environment(self, temp: Path, **more: str) -> dict[str, str]:
        """The environment of a server whose workers compute with one thread, on the CPU."""
        return environment(
            OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TMPDIR=str(temp), TEMP=str(temp), **more
        )


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
    """Versions of the compared packages that an interpreter has."""
    program = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({one.name.lower(): one.version for one in m.distributions() if one.name}))"
    )
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True, env=environment())
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"{python} is not a Python that runs ({error}): give another --python") from error
    found = json.loads(done.stdout)
    return {name: str(found[name]) for name in PACKAGES if name in found}


def start(peer: Peer, place: Place, film: bytes) -> AbstractContextManager[Running]:
    """The server, started and stopped with a block; `film` has to be answered before it counts as started."""
    if peer.server == "pneumoscan":
        return served_archive(place.archive, place.folder, ("--device", "cpu"))
    if peer.server == "torchserve":
        return _torchserve(peer.service, place)
    return _python_server(peer, place, film)


@contextmanager
def _python_server(peer: Peer, place: Place, film: bytes) -> Iterator[Running]:
    """LitServe or BentoML."""
    (port,) = free_ports(1)
    place.folder.mkdir(parents=True)
    command = [place.python, "-m", "benchmarks.peer_litserve"]
    if peer.server == "bentoml":
        command = [place.python, "-m", "bentoml", "serve", "benchmarks.peer_bentoml:Service"]
        command += ["--host", HOST, "--port", str(port), "--working-dir", str(REPOSITORY)]
    variables = place.environment(
        place.folder,
        BENTOML_DO_NOT_TRACK="True",
        BENTOML_HOME=str(place.folder / "bentoml"),
        PEER_SERVICE=peer.service,
        PEER_FOLDER=str(place.unpacked),
        PEER_WORKERS=str(place.workers),
        PEER_PORT=str(port),
    )
    log = place.folder / "out.log"
    with process(command, log, variables) as started:
        server = Running((HOST, port), "/predict", Tree(started.pid))
        request = request_to(peer, server, film)
        wait_until(lambda: 200 <= exchange(server.address, request)[0] < 300, started, log, peer.name)
        yield server


@contextmanager
def _torchserve(service: str, place: Place) -> Iterator[Running]:
    """TorchServe with another handler than ours, batches of one."""
    folder = place.folder
    store, temp, log = folder / "store", folder / "tmp", folder / "out.log"
    for path in (store, temp):
        path.mkdir(parents=True)
    _pack(service, place, store)
    inference, management, metrics = free_ports(3)
    RunDir(folder).config.write_text(_config(service, store, inference, management, metrics))
    variables = place.environment(temp, LOG_LOCATION=str(folder), METRICS_LOCATION=str(folder))
    with process(torchserve_command(service, folder, store, place.python), log, variables, folder) as started:
        ready = partial(_all_ready, (HOST, management), place.workers)
        wait_until(lambda: ready() or _is_broken(folder), started, log, f"TorchServe with {service}")
        if not ready():
            raise BenchmarkError(f"a worker of TorchServe with {service} failed:\n{tail(folder / _WORKER_LOG)}")
        yield Running((HOST, inference), f"/predictions/{_MODEL_NAME}", Tree(started.pid))


def _all_ready(management: Address, workers: int) -> bool:
    host, port = management
    status, body = exchange(management, f"GET /models/{_MODEL_NAME} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    if status != 200:
        return False
    return [worker["status"] for worker in json.loads(body)[0]["workers"]].count("READY") == workers


def _is_broken(folder: Path) -> bool:
    path = folder / _WORKER_LOG
    return path.is_file() and "Backend worker process died" in path.read_text(errors="replace")


def torchserve_command(service: str, folder: Path, store: Path, python: str) -> list[str]:
    """The command line of its JVM."""
    words = server_command(find_java(), RunDir(folder), folder / "tmp", store, HEAP_BYTES)
    if service != "null":  # its users have TorchServe's own configuration of logs, and Java as it is
        words = [word for word in words if not word.startswith(("-Dlog4j", "-X"))]
    words[words.index("--python") + 1] = python
    return words


def _config(service: str, store: Path, inference: int, management: int, metrics: int) -> str:
    # The stock handler and the tutorial's run as their users run them, with TorchServe's defaults; the handler that
    # does nothing stands for ours and has our configuration.
    base = "disable_token_authorization=true\n"
    if service == "null":
        lines = resource("config.properties").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(_OWN_LINES)]
        base = "\n".join([*kept, f"metrics_config={resource('metrics.yaml')}"]) + "\n"
    grpc, grpc_management = free_ports(2)
    return base + (
        f"inference_address=http://{HOST}:{inference}\n"
        f"management_address=http://{HOST}:{management}\n"
        f"metrics_address=http://{HOST}:{metrics}\n"
        f"grpc_inference_port={grpc}\ngrpc_management_port={grpc_management}\n"
        f"model_store={store}\nload_models={_MODEL_NAME}={_MODEL_NAME}.mar\nnumber_of_gpu=0\n"
    )


def _pack(service: str, place: Place, store: Path) -> None:
    parts, temp = place.folder / "parts", place.folder / "pack"  # the archiver wipes $TMPDIR/<model name>
    for path in (parts, temp):
        path.mkdir()
    config, settings = parts / "model-config.yaml", parts / SETTINGS
    workers = f"minWorkers: {place.workers}\nmaxWorkers: {place.workers}\n"
    config.write_text(f"{workers}batchSize: 1\nmaxBatchDelay: 1\nresponseTimeout: 120\n")
    settings.write_text(json.dumps({"service": service, "folder": str(place.unpacked)}))
    archiver = [sys.executable, "-m", "model_archiver.model_packaging", "--archive-format", "zip-store"]
    archiver += ["--model-name", _MODEL_NAME, "--version", "1.0", "--export-path", str(store)]
    archiver += ["--config-file", str(config)]
    if service == "stock":
        archiver += [*_stock_model(place.unpacked, parts), "--handler", "image_classifier"]
    else:
        handler = REPOSITORY / "benchmarks" / "peer_handler.py"
        archiver += ["--handler", str(handler), "--extra-files", str(settings)]
    variables = environment(TMPDIR=str(temp))
    done = subprocess.run(archiver, env=variables, capture_output=True, text=True, check=False, cwd=place.folder)
    if done.returncode:
        raise BenchmarkError(f"torch-model-archiver failed for {service}: {done.stderr.strip().splitlines()[-1:]}")


def _stock_model(unpacked: Path, parts: Path) -> list[str]:
    """Model file, weights and class names as TorchServe's image_classifier example has them.

    The head gets rows of zeros up to five classes.
    """
    spec = ModelSpec.load(unpacked)
    state = read_state_dict(unpacked / spec.weights_file)
    for name in ("fc.weight", "fc.bias"):
        more = _STOCK_CLASSES - len(state[name])
        state[name] = torch.cat([state[name], torch.zeros(more, *state[name].shape[1:])])
    torch.save(state, parts / "network.pth")
    sample = ARCHITECTURES[spec.arch](num_classes=_STOCK_CLASSES)
    block = type(sample.layer1[0]).__name__
    depths = [len(layer) for layer in (sample.layer1, sample.layer2, sample.layer3, sample.layer4)]
    (parts / "network.py").write_text(
        f"from torchvision.models.resnet import {block}, ResNet\n\n\n"
        "class Network(ResNet):\n"
        "    def __init__(self):\n"
        f"        super().__init__({block}, {depths}, num_classes={_STOCK_CLASSES})\n"
    )
    (parts / "index_to_name.json").write_text(json.dumps({str(k): f"class {k}" for k in range(_STOCK_CLASSES)}))
    names = [str(parts / name) for name in ("network.py", "network.pth", "index_to_name.json")]
    return ["--model-file", names[0], "--serialized-file", names[1], "--extra-files", names[2]]
