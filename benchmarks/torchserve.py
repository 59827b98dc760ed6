"""TorchServe with other handlers than ours, for comparison: the stock one, a tutorial's, and one that does nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks.http import Address, ask
from benchmarks.peer_handler import SETTINGS
from benchmarks.processes import Tree
from benchmarks.servers import REPOSITORY, BenchmarkError, Running, environment, free_ports, process, tail, wait_until
from cxr.model.network import ARCHITECTURES, read_state_dict
from cxr.model.spec import ModelSpec
from pneumoscan.resources import resource
from pneumoscan.server.run_folder import RunDir
from pneumoscan.server.torchserve import HOST, find_java, server_command

_MODEL: Final = "peer"
_WORKER_LOG: Final = "model_log.log"
_STOCK_CLASSES: Final = 5  # its handler always reports the five best classes, and fails where there are fewer
_OWN_LINES: Final = ("inference_address", "management_address", "metrics_address", "load_models", "model_store")


@contextmanager
def torchserve(service: str, unpacked: Path, folder: Path, python: str, workers: int) -> Iterator[Running]:
    """TorchServe with workers of one thread, batches of one.

    Parameters
    ----------
    service
        ``stock`` for `image_classifier`, else one of `benchmarks.peer_handler`.
    unpacked
        An archive of ours, for its weights.
    folder
        Empty, with a short path.
    python
        Of the workers.
    workers
        How many.

    Raises
    ------
    BenchmarkError
        It does not start.
    """
    store = folder / "store"
    store.mkdir(parents=True)
    _pack(service, unpacked, folder, store, workers)
    inference, management, metrics = free_ports(3)
    address = (HOST, inference)
    RunDir(folder).config.write_text(_config(service, store, inference, management, metrics))
    (folder / "tmp").mkdir()
    variables = environment(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        TMPDIR=str(folder / "tmp"),
        TEMP=str(folder / "tmp"),
        LOG_LOCATION=str(folder),
        METRICS_LOCATION=str(folder),
        CUDA_VISIBLE_DEVICES="",
    )
    log = folder / "out.log"
    with process(command(service, folder, store, python), log, variables, folder) as started:
        ready = partial(_all_ready, (HOST, management), workers)
        wait_until(lambda: ready() or _is_broken(folder), started, log, f"TorchServe with {service}")
        if not ready():
            raise BenchmarkError(f"a worker of TorchServe with {service} failed:\n{tail(folder / _WORKER_LOG)}")
        yield Running(address, f"/predictions/{_MODEL}", Tree(started.pid))


def _all_ready(management: Address, workers: int) -> bool:
    host, port = management
    asked = f"GET /models/{_MODEL} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    status, body = ask(management, asked)
    if status != 200:
        return False
    return [worker["status"] for worker in json.loads(body)[0]["workers"]].count("READY") == workers


def _is_broken(folder: Path) -> bool:
    path = folder / _WORKER_LOG
    return path.is_file() and "Backend worker process died" in path.read_text(errors="replace")


def command(service: str, folder: Path, store: Path, python: str) -> list[str]:
    """The command line of its JVM."""
    words = server_command(find_java(), RunDir(folder), folder / "tmp", store)
    if service != "null":  # its users have TorchServe's own configuration of logs, and Java as it is
        words = [word for word in words if not word.startswith(("-Dlog4j", "-XX"))]
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
        f"model_store={store}\nload_models={_MODEL}={_MODEL}.mar\nnumber_of_gpu=0\n"
    )


def _pack(service: str, unpacked: Path, folder: Path, store: Path, workers: int) -> None:
    parts = folder / "parts"
    parts.mkdir()
    lines = [f"minWorkers: {workers}", f"maxWorkers: {workers}", "batchSize: 1", "maxBatchDelay: 1"]
    (parts / "model-config.yaml").write_text("\n".join([*lines, "responseTimeout: 120"]) + "\n")
    extras = parts / SETTINGS
    extras.write_text(json.dumps({"service": service, "folder": str(unpacked)}))
    archiver = [sys.executable, "-m", "model_archiver.model_packaging", "--archive-format", "zip-store"]
    archiver += ["--model-name", _MODEL, "--version", "1.0", "--export-path", str(store)]
    archiver += ["--config-file", str(parts / "model-config.yaml")]
    if service == "stock":
        archiver += [*_stock_model(unpacked, parts), "--handler", "image_classifier"]
    else:
        handler = REPOSITORY / "benchmarks" / "peer_handler.py"
        archiver += ["--handler", str(handler), "--extra-files", str(extras)]
    temp = folder / "pack"  # the archiver wipes $TMPDIR/<model name>
    temp.mkdir()
    done = subprocess.run(
        archiver, env=environment(TMPDIR=str(temp)), capture_output=True, text=True, check=False, cwd=folder
    )
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
