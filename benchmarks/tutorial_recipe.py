"""The well-known tutorial's way to train, for comparison alone: nothing of the product uses it.

As published with "Building an AI COVID-19 Product Using Transfer Learning in Pytorch" (2020): a frozen ResNet-152 with
a new head and a log-softmax; films resized, turned by up to 20 degrees, mirrored at random; Adam at 1e-3 and batches of
256; a scheduler that divides the rate by ten every four epochs and is stepped before the first optimizer step of an
epoch; the network in training mode, so that the BatchNorm statistics of the frozen part drift; 100 epochs, in each of
which every film is decoded and passed through the whole network again; and the weights kept that were the most accurate
on the *test* films.

What is not as published: the network starts from the weights given, with their normalisation; and where there are fewer
films than the recipe is asked to stand for, batches shrink so that an epoch has about as many steps; the statistics
BatchNorm takes from a batch are then noisier than those of 256 films.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import ResNet

from cxr.model.spec import CLASSES, Preprocessing
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.fit.processes import Processes
from cxr_training.measure.metrics import Floats

EPOCHS: Final = 100
BATCH: Final = 256
RATE: Final = 1e-3  # Adam's default
_DECAY_EVERY: Final = 4
_DECAY: Final = 0.1  # StepLR's default


@dataclass(frozen=True, slots=True)
class Done:
    """What the recipe ended with: the probability of PNEUMONIA of each test film, (N,), and the kept epoch."""

    probabilities: Floats
    best_epoch: int
    test_accuracy: float


def rate_of(epoch: int) -> float:
    """The learning rate in an epoch, counted from 1: the scheduler has been stepped as often as the epoch says."""
    return RATE * _DECAY ** (epoch // _DECAY_EVERY)


class TutorialRecipe:
    """The recipe on some films.

    Parameters
    ----------
    start
        Network with its starting weights; it is copied.
    preprocessing
        Size and normalisation.
    processes
        This process; its device is where the network runs.
    """

    def __init__(self, start: ResNet, preprocessing: Preprocessing, processes: Processes, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.device = processes.device
        self.network: Any = copy.deepcopy(start)
        for parameter in self.network.parameters():
            parameter.requires_grad = False
        self.network.fc = nn.Sequential(nn.Linear(start.fc.in_features, len(CLASSES)), nn.LogSoftmax(dim=1))
        self.network.to(self.device)
        self.optimizer = torch.optim.Adam(self.network.fc.parameters(), lr=RATE)
        side = (preprocessing.size, preprocessing.size)
        last = [transforms.ToTensor(), transforms.Normalize(preprocessing.mean, preprocessing.std)]
        turned = [transforms.RandomRotation(20), transforms.RandomHorizontalFlip()]
        self.augmented = transforms.Compose([transforms.Resize(side), *turned, *last])
        self.plain = transforms.Compose([transforms.Resize(side), *last])

    def fit(self, train: Sequence[Record], test: Sequence[Record], epochs: int, batch_size: int) -> Done:
        """Train for some epochs; of the test films' probabilities those of the most accurate epoch are kept."""
        targets = np.array([record.target for record in test])
        best = Done(np.full(len(test), 0.5), 0, 0.0)
        for epoch in progress_bar(range(1, epochs + 1), "tutorial", "epoch"):
            order = torch.randperm(len(train)).tolist()
            self.set_rate(rate_of(epoch))
            for rows in _in_parts(order, batch_size, "training films"):
                self.learn([train[row] for row in rows])
            probabilities = np.concatenate(
                [self.score([test[row] for row in rows]) for rows in _in_parts(range(len(test)), 32, "test")]
            )
            accuracy = float(((probabilities > 0.5) == targets).mean())
            if accuracy > best.test_accuracy:
                best = Done(probabilities, epoch, accuracy)
        return best

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def learn(self, records: Sequence[Record]) -> None:
        """One step, films decoded anew."""
        self.network.train()
        films = torch.stack([self.augmented(picture(record)) for record in records]).to(self.device)
        targets = torch.tensor([record.target for record in records], device=self.device)
        self.optimizer.zero_grad()
        torch.autograd.backward(nn.functional.nll_loss(self.network(films), targets))
        self.optimizer.step()

    def score(self, records: Sequence[Record]) -> Floats:
        """Probabilities of PNEUMONIA, films decoded anew."""
        self.network.eval()
        films = torch.stack([self.plain(picture(record)) for record in records]).to(self.device)
        with torch.no_grad():
            found: Floats = self.network(films)[:, 1].exp().double().cpu().numpy()
        return found


def picture(record: Record) -> Image.Image:
    """A film as the tutorial loads it, through Pillow as RGB; what Pillow cannot open is decoded by `cxr`."""
    try:
        with Image.open(record.file) as opened:
            return opened.convert("RGB")
    except UnidentifiedImageError:
        return Image.fromarray(record.read()).convert("RGB")


def _in_parts(rows: Sequence[int], size: int, name: str) -> Iterator[Sequence[int]]:
    parts: Iterable[Sequence[int]] = [rows[start : start + size] for start in range(0, len(rows), size)]
    yield from progress_bar(parts, name, "step")
