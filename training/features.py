"""Pooled layer4 features of a frozen backbone, worked out once for each film and view and kept on disk.

A frozen backbone gives the same features in every epoch, so it runs once for each film; the head then trains on the
stored features, where an epoch costs milliseconds.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
import pydicom
import torch
import torchvision
from torchvision.models.resnet import ResNet
from tqdm import tqdm

import cxr.dicom
import cxr.film
import cxr.images
import cxr.model
import cxr.preprocess
import training.augment
from cxr.model import features, pool, use_exact_float32
from cxr.preprocess import to_tensor
from cxr.spec import Preprocessing
from training.augment import Augmentation
from training.data import Record

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class View:
    """One look at every film: as it is (number 0), or augmented (1, 2, …), drawn from the seed."""

    number: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def tensor(self, record: Record, preprocessing: Preprocessing) -> torch.Tensor:
        """The film under this view, (3, size, size). The same film looks the same in any order and subset."""
        pixels = record.read()
        if self.number:
            film = int(record.sha256[:16], 16)
            pixels = self.augmentation.apply(pixels, np.random.default_rng([self.seed, self.number, film]))
        return to_tensor(pixels, preprocessing)

    def key(self) -> dict[str, object]:
        """What the features depend on: nothing of the augmentation for the plain view."""
        return asdict(self) if self.number else {"number": 0}


def backbone_digest(network: ResNet) -> str:
    """SHA-256 of all weights but the head's."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if not name.startswith("fc."):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def _code_digest() -> str:
    """SHA-256 of what turns a file into features: our own sources, and the versions of the libraries under them."""
    digest = hashlib.sha256()
    for module in (cxr.dicom, cxr.images, cxr.film, cxr.preprocess, cxr.model, training.augment):
        digest.update(Path(str(module.__file__)).read_bytes())
    for library in (PIL, pydicom, torch, torchvision):
        digest.update(f"{library.__name__} {library.__version__}".encode())
    return digest.hexdigest()


class FeatureCache:
    """Features on disk under a key of everything they depend on, so that stale ones are never used.

    A row is written as soon as it is known and is NaN until then: an extraction that was stopped goes on where it was.

    Parameters
    ----------
    folder
        Where the files lie; made when needed.
    network
        The backbone, in evaluation mode: its BatchNorm statistics do not drift.
    preprocessing
        How films become tensors.
    device
        Where the backbone runs.
    """

    def __init__(self, folder: Path, network: ResNet, preprocessing: Preprocessing, device: torch.device) -> None:
        self.folder = folder
        self.network = network.eval().to(device)
        self.preprocessing = preprocessing
        self.device = device
        self._backbone = backbone_digest(network)

    def get(self, records: Sequence[Record], view: View, *, batch_size: int = 16, progress: bool = True) -> Features:
        """Features of some films under one view: (N, C) float32, in the order of the films."""
        stored = self._open(records, view)
        todo = np.flatnonzero(np.isnan(stored).any(axis=1))
        name = "plain view" if view.number == 0 else f"augmented view {view.number}"
        bar = tqdm(total=len(records), initial=len(records) - len(todo), unit="film", disable=not progress, leave=False)
        bar.set_description(f"{records[0].split}, {name}")
        use_exact_float32()
        with bar, torch.inference_mode(), ThreadPoolExecutor(max_workers=4) as pool_of_threads:
            for start in range(0, len(todo), batch_size):
                rows = todo[start : start + batch_size]
                chosen = [records[row] for row in rows]
                tensors = list(pool_of_threads.map(lambda record: view.tensor(record, self.preprocessing), chosen))
                stored[rows] = pool(features(self.network, torch.stack(tensors).to(self.device))).cpu().numpy()
                stored.flush()
                bar.update(len(rows))
        return np.array(stored)

    def _open(self, records: Sequence[Record], view: View) -> np.memmap[tuple[int, int], np.dtype[np.float32]]:
        key = {
            "backbone": self._backbone,
            "preprocessing": self.preprocessing.digest(),
            "view": view.key(),
            "films": [record.sha256 for record in records],
            "code": _code_digest(),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self.folder / f"features-{digest[:20]}.npy"
        shape = (len(records), self.network.fc.in_features)
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".tmp")
            rows = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float32, shape=shape)
            rows[:] = np.nan
            rows.flush()
            fresh.rename(path)
        return np.lib.format.open_memmap(path, mode="r+", dtype=np.float32, shape=shape)
