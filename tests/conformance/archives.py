"""A small archive whose weights are the same everywhere, and a process that answers with an archive's handler."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file
from torchvision.models.resnet import BasicBlock, ResNet

ROOT: Final = Path(__file__).resolve().parents[2]
WORKER: Final = Path(__file__).with_name("worker.py")
FIXED_VERSION: Final = "1.2.3"
_WEIGHTS: Final = "model.safetensors"
_SIDE: Final = 128  # of the network's input: a map of 4 x 4 cells


def environment(**more: str) -> dict[str, str]:
    """The environment of every process that is asked: one thread, so that sums have one order."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "PNEUMOSCAN" not in name}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONUNBUFFERED": "1", **more}


def fixed_weights(seed: int = 5) -> dict[str, np.ndarray[Any, Any]]:
    """The state dict of a ResNet-10, by torchvision's keys; numpy draws it, so that no version of torch changes it."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for name, tensor in ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2).state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("num_batches_tracked"):
            weights[name] = np.zeros(shape, np.int64)
            continue
        values = rng.standard_normal(shape)
        if name == "fc.bias":
            values = np.array([8.4, -8.4])  # brings the films drawn here to both sides of the threshold
        elif name == "fc.weight":
            values *= 0.08
        elif name.endswith("running_var"):
            values = 0.5 + rng.random(shape)
        elif len(shape) == 1:  # of a BatchNorm
            values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        else:  # as He et al. (2015), equation 10
            values *= np.sqrt(2 / np.prod(shape[1:]))
        weights[name] = values.astype(np.float32)
    return weights


def write_fixed_model(folder: Path) -> None:
    """Write a run folder with what an archive is packed from: the fixed weights and their `model.json`."""
    folder.mkdir(parents=True)
    save_file(fixed_weights(), folder / _WEIGHTS)
    spec = {
        "arch": "resnet10",
        "pretrained": "random",
        "weights_file": _WEIGHTS,
        "weights_sha256": hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest(),
        "preprocessing": {
            "decode": "reduced",
            "mean": [0.485, 0.456, 0.406],
            "resize": "squash",
            "size": _SIDE,
            "std": [0.229, 0.224, 0.225],
        },
        "classes": ["NORMAL", "PNEUMONIA"],
        "temperature": 1.5,
        "operating_points": {"youden": 0.5, "sensitivity_95": 0.3},
        "operating_point": "youden",
        "indeterminate": [0.31, 0.6],
        "cam_scale": 4.0,
    }
    (folder / "model.json").write_text(json.dumps(spec, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def pack(run: Path, store: Path) -> Path:
    """The archive of a run folder, packed by the command line."""
    command = [sys.executable, "-m", "scripts.package_mar", "--run", str(run), "--version", FIXED_VERSION]
    subprocess.run(
        [*command, "--store", str(store)], cwd=ROOT, env=environment(), check=True, capture_output=True, text=True
    )
    return store / f"pneumonia-{FIXED_VERSION}.mar"


def unpack(archive: Path, folder: Path) -> Path:
    """The folder an archive was unpacked into."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


@dataclass(frozen=True)
class Asked:
    """One request, as TorchServe hands it to a handler.

    Parameters
    ----------
    row
        Its parts by name: bytes, text or decoded JSON.
    headers
        Its headers.
    """

    row: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def to_wire(self, request_id: str) -> dict[str, Any]:
        """The request as `worker.py` reads it."""
        row = {
            name: {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else {"json": value}
            for name, value in self.row.items()
        }
        return {"row": row, "headers": self.headers, "id": request_id}


@dataclass(frozen=True)
class Answered:
    """The reply to one request."""

    status: int
    content_type: str
    body: bytes


class Worker:
    """A process that answers batches with the handler of an unpacked archive.

    Parameters
    ----------
    process
        `worker.py`, which has loaded the archive or is about to.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        _, self.printed_at_start = self._read()

    def ask(self, batch: Sequence[Asked]) -> tuple[list[Answered], str]:
        """The replies to a batch, and what the handler printed meanwhile; the ids are ``id-0``, ``id-1`` …."""
        assert self._process.stdin is not None
        requests = [asked.to_wire(f"id-{i}") for i, asked in enumerate(batch)]
        self._process.stdin.write(json.dumps(requests) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> tuple[list[Answered], str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self._process.wait()}; its stderr says why")
        answer = json.loads(line)
        replies = [
            Answered(one["status"], one["content_type"], base64.b64decode(one["body"])) for one in answer["replies"]
        ]
        return replies, answer["printed"]


@contextmanager
def working(folder: Path) -> Iterator[Worker]:
    """A worker for an unpacked archive, ended with the block."""
    with subprocess.Popen(
        [sys.executable, "-P", str(WORKER), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder.parent,
        env=environment(),
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield Worker(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(60)
