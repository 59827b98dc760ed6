"""Features of a frozen backbone, worked out once for each film and view and kept on disk.

A frozen backbone gives the same features in every epoch, so it runs once for each film; the head then trains on the
stored features, where an epoch costs milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from cxr.films.film import Pixels
from cxr.model.network import backbone_digest, features, folded, pool, trunk, use_exact_float32
from cxr.model.preprocess import to_tensor
from cxr.model.spec import Preprocessing
from cxr_training.data.prefetch import in_batches, prefetched
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.fit.feature_rows import FeatureRows, Features, StoredFeatures
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import Augmentation

# Of everything that turns a film into features. Raise it with any change that gives a film other features: a test holds
# the features of three films against those of this version.
FEATURES_VERSION: Final = 1
_LIBRARIES: Final = (
    *("numpy", "pillow", "pydicom", "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "python-gdcm"),
    *("torch", "torchvision"),
)

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
    kind
        The type of number that is stored.
    """

    name: str
    compute: Callable[[ResNet, torch.Tensor], torch.Tensor]
    shape: Callable[[ResNet, int], tuple[int, ...]]
    kind: str = "float32"


def _pooled_layer4(network: ResNet, tensors: torch.Tensor) -> torch.Tensor:
    return pool(features(network, tensors))


def _pooled_shape(network: ResNet, _: int) -> tuple[int, ...]:
    return (network.fc.in_features,)


def _layer4_shape(network: ResNet, size: int) -> tuple[int, ...]:
    cells = -(-size // 32)
    return (network.fc.in_features, cells, cells)


def _layer3_shape(network: ResNet, size: int) -> tuple[int, ...]:
    """Channels and cells; each of the four halvings before layer4 rounds up."""
    cells = -(-size // 16)
    return (_in_channels(network.layer4), cells, cells)


def _in_channels(layer: nn.Module) -> int:
    return next(module.in_channels for module in layer.modules() if isinstance(module, nn.Conv2d))


def pooled_of(network: ResNet, maps: StoredFeatures, device: torch.device, *, batch_size: int = BATCH) -> Features:
    """Pooled layer4 features from stored outputs of layer3: (N, c, h, w) → (N, C)."""
    layer4 = folded(network).layer4.to(device)
    use_exact_float32()
    with torch.inference_mode():
        parts = [
            pool(layer4(torch.from_numpy(maps[start : start + batch_size]).to(device))).cpu().numpy()
            for start in range(0, len(maps), batch_size)
        ]
    return np.concatenate(parts)


POOLED: Final = Depth("layer4, pooled", _pooled_layer4, _pooled_shape)
LAYER4: Final = Depth("layer4, float16", features, _layer4_shape, "float16")  # 0.2 MB for a film of 224 pixels
LAYER3: Final = Depth("layer3", trunk, _layer3_shape)


@dataclass(frozen=True, slots=True)
class View:
    """A view of every film: as it is (number 0), or augmented (1, 2, …), drawn from the seed."""

    number: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def tensor(self, record: Record, preprocessing: Preprocessing) -> torch.Tensor:
        """The film under this view, (3, size, size). The same film gives the same in any order and subset."""
        return to_tensor(self.changed(record, record.read(preprocessing.least_side)), preprocessing)

    def changed(self, record: Record, pixels: Pixels) -> Pixels:
        """What becomes of a film's pixels, or of a mask of the same size: (H, W) uint8."""
        if not self.number:
            return pixels
        film = int(record.sha256[:16], 16)
        return self.augmentation.apply(pixels, np.random.default_rng([self.seed, self.number, film]))

    def key(self) -> dict[str, object]:
        """What the features depend on: nothing of the augmentation for the plain view."""
        return asdict(self) if self.number else {"number": 0}


class FeatureCache:
    """Features on disk, a row for each film, in tables under a key of everything else they depend on.

    So stale features are never used, and one film more costs one film's work. A row is written as soon as it is known:
    what was stopped, was damaged, or is shared by several processes, goes on film by film.

    The last bits of a film's features depend on how many films go through the backbone together, but not on which
    (processors choose the order of their sums by the size of the batch). So batches always have the same size, the
    last one filled up with empty films: a film's features are the same bytes whatever was missing around it.

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
    batch_size
        Films that go through the backbone together.
    """

    def __init__(
        self,
        folder: Path,
        network: ResNet,
        preprocessing: Preprocessing,
        device: torch.device | Processes,
        depth: Depth = POOLED,
        *,
        batch_size: int = BATCH,
    ) -> None:
        self.folder = folder
        self.processes = device if isinstance(device, Processes) else Processes(device)
        self.network = folded(network).to(self.processes.device)
        self.preprocessing = preprocessing
        self.depth = depth
        self.batch_size = batch_size
        self._backbone = backbone_digest(network)

    def get_all(self, films: Sequence[tuple[Sequence[Record], View]]) -> list[StoredFeatures]:
        """Features of several lists of films and views. Room is made for all of them before the first film is read."""
        unfilled = [self.filling(records, view) for records, view in films]
        return [self._filled(*one) for one in zip(unfilled, films, strict=True)]

    def get(self, records: Sequence[Record], view: View) -> Features:
        """Features of some films under one view: (N, …) float32, in the order of the films."""
        return self._filled(self.filling(records, view), (records, view)).array()

    def filling(self, records: Sequence[Record], view: View) -> Filling:
        """The features of some films under one view, to be completed with those that are missing.

        Raises
        ------
        TrainingError
            If the disk has no room for them.
        """
        key = {
            "backbone": self._backbone,
            "depth": self.depth.name,
            "preprocessing": self.preprocessing.digest(),
            "view": view.key(),
            "batch_size": self.batch_size,
            "version": FEATURES_VERSION,
            "libraries": {name: version(name) for name in _LIBRARIES},
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        shape = self.depth.shape(self.network, self.preprocessing.size)
        table = FeatureRows(self.folder / f"features-{digest[:20]}", shape, self.depth.kind)
        films = [record.sha256 for record in records]
        if self.processes.is_first:
            table.add(films, self.depth.name)
        self.processes.wait()
        return Filling(self, records, table.stored(films))

    def compute(self, tensors: Sequence[torch.Tensor]) -> Features:
        """Features of at most `batch_size` films as a network sees them, the same for each whatever the others are."""
        empty = [torch.zeros_like(tensors[0])] * (self.batch_size - len(tensors))
        use_exact_float32()
        with torch.inference_mode():
            films = torch.stack([*tensors, *empty]).to(self.processes.device, memory_format=torch.channels_last)
            return self.depth.compute(self.network, films)[: len(tensors)].cpu().numpy()

    def _filled(self, filling: Filling, films: tuple[Sequence[Record], View]) -> StoredFeatures:
        records, view = films
        name = "plain view" if view.number == 0 else f"augmented view {view.number}"
        missing = list(filling.missing)
        batches = prefetched(
            in_batches(missing, self.batch_size), lambda record: (record, view.tensor(record, self.preprocessing))
        )
        done = len(records) - len(missing)
        with progress_bar(records, f"{records[0].split}, {name}", "film", initial=done) as bar:
            for batch in batches:
                for record, tensor in batch:
                    filling.add(record, tensor)
                bar.update(len(batch))
        return filling.finish()


class Filling:
    """Features of some films that are completed as the films come by.

    Parameters
    ----------
    stored
        Of all the films, in their order.
    """

    def __init__(self, cache: FeatureCache, records: Sequence[Record], stored: StoredFeatures) -> None:
        self._cache, self._stored = cache, stored
        films = {record.sha256: film for film, record in enumerate(records)}  # one that is there twice counts once
        processes = cache.processes
        # By the whole list: what is missing can look different to a process that comes a little later.
        mine = [*films.items()][processes.rank :: processes.count]
        states = {name: stored.state(film) for name, film in mine}
        self._films = {name: film for name, film in mine if states[name] != "right"}
        self._records = [records[film] for film in self._films.values()]
        self._waiting: list[tuple[int, torch.Tensor]] = []
        if damaged := [*states.values()].count("damaged"):
            print(f"{cache.folder}: stored features of {damaged} films are damaged, made again", file=sys.stderr)

    @property
    def missing(self) -> Sequence[Record]:
        """The films that this process has to add."""
        return self._records

    def lacks(self, record: Record) -> bool:
        """Whether this process has to add a film."""
        return record.sha256 in self._films

    def add(self, record: Record, tensor: torch.Tensor) -> None:
        """Work out the features of a missing film under the view, (3, size, size), with some that came before."""
        self._waiting.append((self._films.pop(record.sha256), tensor))
        if len(self._waiting) == self._cache.batch_size:
            self._compute()

    def finish(self) -> StoredFeatures:
        """All features, when every missing film has been added, by all processes."""
        if self._waiting:
            self._compute()
        self._cache.processes.wait()
        return self._stored

    def _compute(self) -> None:
        films, tensors = zip(*self._waiting, strict=True)
        self._stored.put(films, self._cache.compute(tensors))
        self._waiting.clear()
