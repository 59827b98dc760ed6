"""Features of a frozen backbone, worked out once for each film and view and kept on disk.

A frozen backbone gives the same features in every epoch, so it runs once for each film; the head then trains on the
stored features, where an epoch costs milliseconds.
"""

from __future__ import annotations

import copy
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
from torchvision.models.resnet import ResNet

from cxr.films.film import Pixels
from cxr.model.network import backbone_digest
from cxr.model.preprocess import to_tensor
from cxr.model.spec import Preprocessing
from cxr_training.data.prefetch import in_batches, prefetched
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.fit.extraction import BATCH, POOLED, Depth, Extractor, extractor_of
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

ExtractorOf = Callable[[ResNet, str, Preprocessing, torch.device], Extractor]


@dataclass(frozen=True, slots=True)
class View:
    """A view of every film: as it is (number 0), or augmented (1, 2, …), drawn from the seed; mirrored or not."""

    number: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    mirrored: bool = False

    @property
    def name(self) -> str:
        """As progress bars show it."""
        kind = f"augmented view {self.number}" if self.number else "view" if self.mirrored else "plain view"
        return f"mirrored {kind}" if self.mirrored else kind

    def tensor(self, record: Record, preprocessing: Preprocessing) -> torch.Tensor:
        """The film under this view, (3, size, size). The same film gives the same in any order and subset."""
        return to_tensor(self.changed(record, record.read(preprocessing.least_side)), preprocessing)

    def changed(self, record: Record, pixels: Pixels) -> Pixels:
        """What becomes of a film's pixels, or of a mask of the same size: (H, W) uint8."""
        if self.mirrored:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        if not self.number:
            return pixels
        film = int(record.sha256[:16], 16)
        return self.augmentation.apply(pixels, np.random.default_rng([self.seed, self.number, film]))

    def key(self) -> dict[str, object]:
        """What the features depend on: nothing of the augmentation for a view that is not augmented."""
        mirrored = {"mirrored": True} if self.mirrored else {}
        if not self.number:
            return {"number": 0, **mirrored}
        augmentation = asdict(self.augmentation)
        if not self.augmentation.max_crop:
            del augmentation["max_crop"]  # so that what was stored before there was a choice is still found
        return {"number": self.number, "augmentation": augmentation, "seed": self.seed, **mirrored}


class FeatureCache:
    """Features on disk, a row for each film, in tables under a key of everything else they depend on.

    So stale features are never used, and one film more costs one film's work. A row is written as soon as it is known:
    what was stopped, was damaged, or is shared by several processes, goes on film by film.

    The last bits of a film's features depend on how many films go through torch's backbone together, but not on which
    (processors choose the order of their sums by the size of the batch). So its batches always have the same size, the
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
        What is stored: the pooled output of layer4, the whole of it, or the output of layer3.
    extractor
        Gives what computes, from the network, the depth, the preprocessing and the device.
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
        extractor: ExtractorOf = extractor_of,
    ) -> None:
        self.folder = folder
        self.processes = device if isinstance(device, Processes) else Processes(device)
        self.extractor = extractor(network, depth.layer, preprocessing, self.processes.device)
        self.preprocessing = preprocessing
        self.depth = depth
        self.batch_size = batch_size
        self._network = network
        self._backbone = backbone_digest(network)

    def at(self, depth: Depth) -> FeatureCache:
        """The cache for another form of the same layer's output; it has the extractor in common."""
        assert depth.layer == self.depth.layer
        other = copy.copy(self)
        other.depth = depth
        return other

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
            "extractor": self.extractor.name,
            "batch_size": self.batch_size,
            "version": FEATURES_VERSION,
            "libraries": {name: version(name) for name in _LIBRARIES},
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        shape = self.depth.shape(self._network, self.preprocessing.size)
        table = FeatureRows(self.folder / f"features-{digest[:20]}", shape, self.depth.kind)
        films = [record.sha256 for record in records]
        if self.processes.is_first:
            table.add(films, self.depth.name)
        self.processes.wait()
        return Filling(self, records, table.stored(films))

    def compute(self, tensors: Sequence[torch.Tensor]) -> Features:
        """Features of at most `batch_size` films as a network sees them, the same for each whatever the others are."""
        left = 0 if self.extractor.one_by_one else self.batch_size - len(tensors)
        empty = [torch.zeros_like(tensors[0])] * left
        output = self.extractor.compute(torch.stack([*tensors, *empty]))[: len(tensors)]
        return self.depth.of(torch.from_numpy(output)).numpy()

    def _filled(self, filling: Filling, films: tuple[Sequence[Record], View]) -> StoredFeatures:
        records, view = films
        missing = list(filling.missing)
        batches = prefetched(
            in_batches(missing, self.batch_size), lambda record: (record, view.tensor(record, self.preprocessing))
        )
        done = len(records) - len(missing)
        with progress_bar(records, f"{records[0].split}, {view.name}", "film", initial=done) as bar:
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
