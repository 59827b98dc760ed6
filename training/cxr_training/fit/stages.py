"""From starting weights to trained weights: the head on stored features, then the layers below it where requested."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision.models.resnet import ResNet

from cxr.model.spec import Preprocessing
from cxr_training.data.boxes import NO_BOXES, KeptBoxes
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from cxr_training.fit.box_head import Cells, known_films, train_head_with_boxes
from cxr_training.fit.extraction import LAYER3, LAYER4, POOLED, Depth, pooled_of
from cxr_training.fit.feature_rows import Features, StoredFeatures
from cxr_training.fit.features import FeatureCache, View
from cxr_training.fit.head import Epoch, Targets, TrainedHead, Weighting, film_weights, train_head
from cxr_training.fit.processes import Processes
from cxr_training.fit.resume import Unfinished
from cxr_training.fit.settings import BoxSettings, TrainSettings
from cxr_training.fit.tune import Load, Tuned, splits
from cxr_training.fit.tune_loop import State, TuneLoop


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best epoch and the history of the last stage; `tuned` where there was one below the head."""

    best_epoch: int
    history: tuple[Epoch, ...]
    tuned: Tuned | None = None

    @property
    def best(self) -> Epoch:
        """What was measured of the weights that were kept."""
        return next(epoch for epoch in self.history if epoch.epoch == self.best_epoch)


@dataclass(frozen=True, slots=True)
class Fit:
    """A fit of a network to films.

    Parameters
    ----------
    network
        With its starting weights; those that are trained are changed in place.
    train, val
        The films.
    cache
        Folder of stored features.
    unfinished
        Where the state is kept while layers below the head are trained.
    save_every_s
        Seconds between two states inside an epoch.
    on_epoch
        Called with every epoch, in the first process.
    boxes
        Of the data folder, where they are trained on.
    others
        Training films labelled OTHER that count for neither class: there is no opacity in their cells.
    """

    network: ResNet
    train: Sequence[Record]
    val: Sequence[Record]
    preprocessing: Preprocessing
    settings: TrainSettings
    cache: Path
    processes: Processes
    unfinished: Unfinished
    save_every_s: float
    on_epoch: Callable[[Epoch], None]
    boxes: KeptBoxes = NO_BOXES
    others: Sequence[Record] = ()

    @property
    def views(self) -> list[View]:
        """The views of each training film that features are stored of."""
        rules = self.settings.augmentation, self.settings.seed
        plain, *augmented = (View(number, *rules) for number in range(self.settings.views + 1))
        return [plain, *([View(mirrored=True)] if self.settings.mirrored else []), *augmented]

    def run(self, state: State | None = None) -> Fitted:
        """Train, going on from the state of an earlier try where there is one.

        Raises
        ------
        TrainingError
            If a film cannot be decoded, the loss is no number, or no film has a source that is named.
        """
        unknown = {*self.settings.views_of} - {record.extra.get("source") for record in self.train}
        if unknown:
            raise TrainingError(f"--views-of {', '.join(sorted(unknown))}: no training film has that source")
        if self.settings.trainable == "layer4":
            *train_maps, val_maps = self._features(LAYER3)
            if state is None:
                pooled = [pooled_of(self.network, maps, self.processes.device) for maps in (*train_maps, val_maps)]
                self._head(pooled[:-1], pooled[-1])
            return self._tune(self._stored(self.train, train_maps), self._stored(self.val, [val_maps]), state)
        if self.settings.trainable == "all":
            if state is None:
                self._head_on_stored()
            return self._tune(self._films(self.train), self._films(self.val), state)
        fitted = self._head_on_stored()
        if self.processes.is_first:
            for epoch in fitted.history:
                self.on_epoch(epoch)
        return fitted

    def _features(self, depth: Depth) -> list[StoredFeatures]:
        """Of the training films under each view, then of the validation films."""
        cache = FeatureCache(self.cache, self.network, self.preprocessing, self.processes, depth)
        wanted = [*((self.train, view) for view in self.views), (self.val, View())]
        return cache.get_all(wanted)

    def _head_on_stored(self) -> Fitted:
        if self.settings.boxes is not None:
            return self._head_with_boxes(self.settings.boxes)
        cache = FeatureCache(self.cache, self.network, self.preprocessing, self.processes, POOLED)
        *views, val = cache.get_all(self._pooled_of(self.train))
        train = self._by_view([dict(_by_film(stored)) for stored in views])
        return self._head(train, val.array())

    def _pooled_of(self, train: Sequence[Record]) -> list[tuple[Sequence[Record], View]]:
        """What is wanted of these training films under each view, then of the validation films."""
        return [*(self._wanted(train, view) for view in self.views), (self.val, View())]

    def _wanted(self, records: Sequence[Record], view: View) -> tuple[Sequence[Record], View]:
        """The films that a view is stored of; where there are none of its sources, all as they are."""
        sources = self.settings.views_of
        if view == self.views[0] or not sources:
            return records, view
        shown = [record for record in records if record.extra.get("source") in sources]
        return (shown, view) if shown else (records, self.views[0])

    def _by_view(self, views: Sequence[Mapping[str, Features]]) -> list[Features]:
        """Features of all training films under each view, in their order; the plain ones where there are no others."""
        return [np.stack([view.get(film.sha256, views[0][film.sha256]) for film in self.train]) for view in views]

    def _head_with_boxes(self, settings: BoxSettings) -> Fitted:
        """Maps are stored of the films that are known cell by cell, pooled features of all others."""
        known = {film.record.sha256: film for film in known_films([*self.train, *self.others], self.boxes)}
        rest = [record for record in self.train if record.sha256 not in known]
        pooled = FeatureCache(self.cache, self.network, self.preprocessing, self.processes, POOLED)
        *of_rest, val = pooled.get_all(self._pooled_of(rest))
        wanted = [self._wanted([film.record for film in known.values()], view) for view in self.views]
        maps = pooled.at(LAYER4).get_all(wanted)
        height, width = maps[0].rows.shape[-2:]
        views = [
            {**dict(_by_film(stored)), **{film: map_.mean(axis=(1, 2)) for film, map_ in _by_film(of_known)}}
            for stored, of_known in zip(of_rest, maps, strict=True)
        ]
        head = train_head_with_boxes(
            self._by_view(views),
            targets_of(self.train),
            val.array(),
            targets_of(self.val),
            [
                Cells(map_, np.stack([known[film].shares(view, (height, width)) for film in map_.films]))
                for map_, (_, view) in zip(maps, wanted, strict=True)
            ],
            settings,
            weights=self._weighting(),
        )
        return self._put(head)

    def _head(self, train: Sequence[Features], val: Features) -> Fitted:
        """Train the head and put it into the network."""
        settings = dataclasses.replace(self.settings.head, seed=self.settings.seed)
        head = train_head(
            train,
            targets_of(self.train),
            val,
            targets_of(self.val),
            settings,
            weights=self._weighting(),
        )
        return self._put(head)

    def _put(self, head: TrainedHead) -> Fitted:
        with torch.no_grad():
            self.network.fc.weight.copy_(head.weight)
            self.network.fc.bias.copy_(head.bias)
        return Fitted(head.best_epoch, head.history)

    def _weighting(self) -> Weighting:
        rules = self.settings.balance, self.settings.label_weights
        return Weighting(*(film_weights(records, *rules) for records in (self.train, self.val)))

    def _stored(self, records: Sequence[Record], views: Sequence[StoredFeatures]) -> Load:
        """Layer3 outputs, in each epoch under a view drawn for each film."""

        def load(row: int, epoch: int) -> torch.Tensor:
            rng = np.random.default_rng([self.settings.seed, epoch, int(records[row].sha256[:16], 16)])
            view = views[int(rng.integers(len(views))) if epoch else 0]
            return torch.from_numpy(view[row])

        return load

    def _films(self, records: Sequence[Record]) -> Load:
        """Films, in each epoch under an augmentation of its own."""

        def load(row: int, epoch: int) -> torch.Tensor:
            return View(epoch, self.settings.augmentation, self.settings.seed).tensor(records[row], self.preprocessing)

        return load

    def _tune(self, train: Load, val: Load, state: State | None) -> Fitted:
        loop = TuneLoop(
            self.network,
            self.settings.trainable,
            *splits(train, targets_of(self.train), val, targets_of(self.val), self._weighting()),
            self.settings.tuning,
            seed=self.settings.seed,
            processes=self.processes,
            save=self.unfinished.save,
            save_every_s=self.save_every_s,
            on_epoch=self.on_epoch,
        )
        tuned = loop.run(state)
        return Fitted(tuned.best_epoch, tuned.history, tuned)


def _by_film(stored: StoredFeatures) -> Iterator[tuple[str, Features]]:
    """Digest and features of each film."""
    return ((film, stored[place]) for place, film in enumerate(stored.films))


def targets_of(records: Sequence[Record]) -> Targets:
    """The labels as class indices, (N,)."""
    return np.array([record.target for record in records], dtype=np.int64)
