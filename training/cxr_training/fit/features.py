"""Features of a frozen backbone, worked out once for each film and view and kept on disk.

A frozen backbone gives the same features in every epoch, so it runs once for each film; the head then trains on the
stored features, where an epoch costs milliseconds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from cxr.model.network import backbone_digest, features, folded, pool, trunk, use_exact_float32
from cxr.model.preprocess import to_tensor
from cxr.model.spec import Preprocessing
from cxr_training.data.prefetch import prefetched
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from cxr_training.fit.augment import Augmentation
from cxr_training.fit.processes import Processes

# What turns a file into features. A test follows the imports.
CODE: Final = (
    *(
        "cxr.films.sandbox",
        "cxr.films.dicom_codecs",
        "cxr.films.dicom",
        "cxr.films.dicom_header",
        "cxr.errors",
        "cxr.films.film",
        "cxr.model.parity",
        "cxr.films.picture_headers",
    ),
    *("cxr.films.decode", "cxr.model.network", "cxr.model.preprocess", "cxr.films.frontal", "cxr.model.spec"),
    *(
        "cxr_training.fit.augment",
        "cxr_training.data.records",
        "cxr_training.fit.features",
    ),
)
_LIBRARIES: Final = (
    *(
        "numpy",
        "pillow",
        "pydicom",
        "pyjpegls",
        "pylibjpeg",
        "pylibjpeg-openjpeg",
        "python-gdcm",
        "torch",
        "torchvision",
    ),
)


Features = npt.NDArray[np.float32]

BATCH: Final = 16  # films that go through the backbone together


@dataclass(frozen=True, slots=True)
class Depth:
    """How far films go through the backbone before they are stored.

    Parameters
    ----------
    name
        Part of the key.
    compute
        From the backbone and (B, 3, H, W) to what is stored, (B, …).
    shape
        Of one film's row.
    """

    name: str
    compute: Callable[[ResNet, torch.Tensor], torch.Tensor]
    shape: Callable[[ResNet, int], tuple[int, ...]]


def _pooled_layer4(network: ResNet, tensors: torch.Tensor) -> torch.Tensor:
    return pool(features(network, tensors))


def _pooled_shape(network: ResNet, _: int) -> tuple[int, ...]:
    return (network.fc.in_features,)


def _layer3_shape(network: ResNet, size: int) -> tuple[int, ...]:
    """Channels and cells; each of the four halvings before layer4 rounds up."""
    cells = -(-size // 16)
    return (_in_channels(network.layer4), cells, cells)


def _in_channels(layer: nn.Module) -> int:
    return next(module.in_channels for module in layer.modules() if isinstance(module, nn.Conv2d))


def pooled_of(network: ResNet, maps: Features, device: torch.device, *, batch_size: int = BATCH) -> Features:
    """Pooled layer4 features from stored outputs of layer3: (N, c, h, w) → (N, C)."""
    layer4 = folded(network).layer4.to(device)
    use_exact_float32()
    with torch.inference_mode():
        parts = [
            pool(layer4(torch.from_numpy(np.array(maps[start : start + batch_size])).to(device))).cpu().numpy()
            for start in range(0, len(maps), batch_size)
        ]
    return np.concatenate(parts)


POOLED: Final = Depth("layer4, pooled", _pooled_layer4, _pooled_shape)
LAYER3: Final = Depth("layer3", trunk, _layer3_shape)


@dataclass(frozen=True, slots=True)
class View:
    """One look at every film: as it is (number 0), or augmented (1, 2, …), drawn from the seed."""

    number: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def tensor(self, record: Record, preprocessing: Preprocessing) -> torch.Tensor:
        """The film under this view, (3, size, size). The same film looks the same in any order and subset."""
        pixels = record.read(preprocessing.least_side)
        if self.number:
            film = int(record.sha256[:16], 16)
            pixels = self.augmentation.apply(pixels, np.random.default_rng([self.seed, self.number, film]))
        return to_tensor(pixels, preprocessing)

    def key(self) -> dict[str, object]:
        """What the features depend on: nothing of the augmentation for the plain view."""
        return asdict(self) if self.number else {"number": 0}


@functools.cache
def _code_digest() -> str:
    """SHA-256 of what turns a file into features: our own sources, and the versions of the libraries under them."""
    digest = hashlib.sha256()
    for module in CODE:
        digest.update(Path(str(import_module(module).__file__)).read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()


class FeatureCache:
    """Features on disk under a key of everything they depend on, so that stale ones are never used.

    A row is written as soon as it is known and is NaN until then. Films go through the backbone in batches that always
    hold the same films, and one of which anything is missing is worked out anew: an extraction that was stopped, or is
    shared by several processes, ends in the same bytes.

    Parameters
    ----------
    folder
        Where the files lie; made when needed.
    network
        The backbone. A copy of it does the work, its BatchNorms folded: their statistics do not drift.
    preprocessing
        How films become tensors.
    device
        Where the backbone runs; or, where several processes share the work, this process among them.
    depth
        What is stored: the pooled output of layer4, or the whole output of layer3.
    """

    def __init__(
        self,
        folder: Path,
        network: ResNet,
        preprocessing: Preprocessing,
        device: torch.device | Processes,
        depth: Depth = POOLED,
    ) -> None:
        self.folder = folder
        self.processes = device if isinstance(device, Processes) else Processes(device)
        self.network = folded(network).to(self.processes.device)
        self.preprocessing = preprocessing
        self.depth = depth
        self._backbone = backbone_digest(network)

    def get_all(self, films: Sequence[tuple[Sequence[Record], View]]) -> list[Features]:
        """Features of several lists of films and views. Room is made for all of them before the first film is read."""
        for records, view in films:
            self._open(records, view, BATCH)
        return [self.get(records, view) for records, view in films]

    def get(self, records: Sequence[Record], view: View, *, batch_size: int = BATCH) -> Features:
        """Features of some films under one view: (N, …) float32, in the order of the films, read from disk."""
        stored = self._open(records, view, batch_size)
        batches = [range(start, min(start + batch_size, len(records))) for start in range(0, len(records), batch_size)]
        todo = [rows for rows in batches if np.isnan(stored[rows.start : rows.stop]).any()]
        mine = todo[self.processes.rank :: self.processes.count]
        self.processes.wait()  # so that all of them saw the same rows missing
        missing = sum(map(len, mine))
        name = "plain view" if view.number == 0 else f"augmented view {view.number}"
        bar = progress_bar(records, f"{records[0].split}, {name}", "film", initial=len(records) - missing)
        use_exact_float32()
        tensors = prefetched(mine, lambda row: view.tensor(records[row], self.preprocessing))
        with bar, torch.inference_mode():
            for rows, films in zip(mine, tensors, strict=True):
                on_device = torch.stack(films).to(self.processes.device, memory_format=torch.channels_last)
                stored[rows.start : rows.stop] = self.depth.compute(self.network, on_device).cpu().numpy()
                stored.flush()
                bar.update(len(rows))
        self.processes.wait()
        return np.lib.format.open_memmap(str(stored.filename), mode="c")  # what is changed in memory stays there

    def _open(
        self, records: Sequence[Record], view: View, batch_size: int
    ) -> np.memmap[tuple[int, ...], np.dtype[np.float32]]:
        key = {
            "backbone": self._backbone,
            "depth": self.depth.name,
            "preprocessing": self.preprocessing.digest(),
            "view": view.key(),
            "films": [record.sha256 for record in records],
            "batch_size": batch_size,
            "code": _code_digest(),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self.folder / f"features-{digest[:20]}.npy"
        shape = (len(records), *self.depth.shape(self.network, self.preprocessing.size))
        if self.processes.is_first and not path.exists():
            self._make(path, shape)
        self.processes.wait()
        return np.lib.format.open_memmap(path, mode="r+", dtype=np.float32, shape=shape)

    def _make(self, path: Path, shape: tuple[int, ...]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        needed, free = 4 * math.prod(shape), shutil.disk_usage(self.folder).free
        if needed > free:
            raise TrainingError(
                f"{self.folder}: {self.depth.name} of {shape[0]} films takes {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free: take another --cache, fewer --views, or make room"
            )
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            rows = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float32, shape=shape)
            rows[:] = np.nan
            rows.flush()
            with contextlib.suppress(FileExistsError):  # another training was quicker: both fill its file
                os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
