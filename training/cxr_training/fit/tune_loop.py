"""The loop that `cxr_training.fit.tune` describes: steps, measures, the best epoch, and a state to resume from.

Everything that is drawn at random is drawn from the seed, the epoch and the film, so a state needs no generator: the
loop goes on at the step after the one that was saved and ends in the weights it would have ended in.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import ResNet

from cxr.model.network import use_exact_float32
from cxr_training.data.prefetch import prefetched
from cxr_training.data.progress import progress_bar
from cxr_training.errors import TrainingError
from cxr_training.fit.head import Epoch, loss_and_accuracy
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import SAVE_EVERY_S, TuneSettings
from cxr_training.fit.tune import (
    MOST_GRADIENT,
    TUNED,
    Split,
    Tuned,
    TunedPart,
    batches_of,
    parameter_groups,
    rate_factor,
    resolve_precision,
    shared,
)


class State(TypedDict):
    """Where a fine-tuning is: everything it goes on from; ``epoch`` and ``step`` are what comes next."""

    epoch: int
    step: int
    weights: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    best_epoch: int
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    history: list[dict[str, Any]]
    spent_s: float


def _ignore(_: object) -> None:
    """Do nothing with it."""


class TuneLoop:
    """One fine-tuning.

    Parameters
    ----------
    network
        With the head to start from; its weights are changed in place, and it stays in evaluation mode.
    trainable
        A key of `cxr_training.fit.tune.TUNED`.
    train, val
        The films.
    seed
        Of the order of the films.
    processes
        Who does which part; each has the same network and films.
    save
        Takes a state; called by the first process after every epoch and whenever `save_every_s` seconds went by.
    on_epoch
        Called with every epoch that is over, in the first process.
    """

    def __init__(
        self,
        network: ResNet,
        trainable: str,
        train: Split,
        val: Split,
        settings: TuneSettings,
        *,
        seed: int,
        processes: Processes,
        save: Callable[[State], None] = _ignore,
        save_every_s: float = SAVE_EVERY_S,
        on_epoch: Callable[[Epoch], None] = _ignore,
    ) -> None:
        self.batches = -(-len(train.targets) // settings.batch_size)
        if settings.batch_size < processes.count or len(train.targets) // self.batches < processes.count:
            raise TrainingError(
                f"{processes.count} processes share {settings.batch_size} films in a step and {len(train.targets)} in "
                "all: each needs one at least. Start fewer processes, or use a larger --batch-size"
            )
        device = processes.device
        self.network = network.eval().to(device, memory_format=torch.channels_last)
        tuned = tuple(name for names in TUNED[trainable] for name in names)
        for name, parameter in network.named_parameters():
            parameter.requires_grad = name.split(".")[0] in tuned
        self.parameters = {name: one for name, one in network.named_parameters() if one.requires_grad}
        part = TunedPart(network, trainable == "all")
        self.model: nn.Module = part if processes.count == 1 else shared(part, device)
        self.optimizer = torch.optim.AdamW(parameter_groups(network, trainable, settings))
        self.precision = resolve_precision(settings.precision, device)
        self.scaler = torch.amp.grad_scaler.GradScaler(device.type, enabled=self.precision is torch.float16)
        self.train, self.val, self.settings, self.seed = train, val, settings, seed
        self.processes, self.save, self.save_every_s = processes, save, save_every_s
        self.on_epoch = on_epoch
        sampled = min(len(train.targets), len(val.targets))
        self.sample = np.sort(np.random.default_rng([seed, 2]).permutation(len(train.targets))[:sampled]).tolist()
        self.epoch, self.step = 1, 0  # what comes next
        self.history: list[Epoch] = []
        self.best_epoch, self.best = 0, self._weights()
        self._saved_at = time.monotonic()
        self._films, self._seconds = 0, 0.0
        self._started, self._earlier_s = time.monotonic(), 0.0

    def run(self, state: State | None = None) -> Tuned:
        """Train from the start, or from a saved state, and leave the weights of the best epoch in the network.

        Raises
        ------
        TrainingError
            If the loss stops being a number.
        """
        use_exact_float32()
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        if self.processes.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.processes.device)
        if state:
            self._restore(state)
        else:
            self._finish_epoch(0)
        while self.epoch <= self.settings.epochs and self.epoch - 1 - self.best_epoch < self.settings.patience:
            self._train_epoch()
            self.epoch, self.step = self.epoch + 1, 0
            self._finish_epoch(self.epoch - 1)
        self._put(self.best)
        peak = torch.cuda.max_memory_allocated(self.processes.device) if self.processes.device.type == "cuda" else None
        images_per_s = self._films / max(self._seconds, 1e-9)
        return Tuned(self.best_epoch, tuple(self.history), images_per_s, peak, self._earlier_s)

    def _train_epoch(self) -> None:
        batches = batches_of(len(self.train.targets), self.settings.batch_size, self.seed, self.epoch)
        share = slice(self.processes.rank, None, self.processes.count)
        inputs = self._inputs(self.train, [rows[share] for rows in batches[self.step :]], self.epoch)
        name = f"epoch {self.epoch} of at most {self.settings.epochs}"
        bar = progress_bar(batches, name, "step", initial=self.step)
        started = time.monotonic()
        with bar:
            for rows, films in zip(batches[self.step :], inputs, strict=True):
                self._learn(films, rows, rows[share])
                self.step += 1
                self._films += len(rows)
                bar.update()
                if time.monotonic() - self._saved_at >= self.save_every_s:
                    self._save()
        if self.processes.device.type == "cuda":
            torch.cuda.synchronize(self.processes.device)
        self._seconds += time.monotonic() - started

    def _learn(self, films: torch.Tensor, rows: Sequence[int], mine: Sequence[int]) -> None:
        """One step on this process's films of a batch; the gradients are those of the whole batch."""
        done = (self.epoch - 1) * self.batches + self.step
        factor = rate_factor(done, self.batches * self.settings.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest"] * factor
        device = self.processes.device
        targets, weights = self.train.targets[mine].to(device), self.train.weights[mine].to(device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=self.precision, enabled=self.precision is not torch.float32):
            logits = self.model(films)
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = (losses * weights).sum() * (self.processes.count / len(rows))  # of these the processes take the mean
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters.values(), MOST_GRADIENT)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _finish_epoch(self, number: int) -> None:
        """Measure, keep the weights where they are the best so far, save."""
        rate = self.optimizer.param_groups[0]["lr"] if number else 0.0
        train_loss, train_accuracy = self._measure(self.train, self.sample)
        val_loss, val_accuracy = self._measure(self.val, range(len(self.val.targets)))
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"the loss is {val_loss} after epoch {number}: start again with a lower --learning-rate and --force"
            )
        if not self.history or val_loss < min(epoch.val_loss for epoch in self.history):
            self.best_epoch, self.best = number, self._weights()
        self.history.append(Epoch(number, rate, train_loss, train_accuracy, val_loss, val_accuracy))
        self._save()
        if self.processes.is_first:
            self.on_epoch(self.history[-1])

    def _measure(self, split: Split, rows: Sequence[int]) -> tuple[float, float]:
        """Loss and accuracy of unaugmented films, in float32, each process scoring its share of them."""
        use_exact_float32()
        places = range(self.processes.rank, len(rows), self.processes.count)
        batches = [
            places[start : start + self.settings.batch_size]
            for start in range(0, len(places), self.settings.batch_size)
        ]
        logits = torch.zeros(len(rows), self.network.fc.out_features, device=self.processes.device)
        with torch.inference_mode():
            chosen = [[rows[place] for place in batch] for batch in batches]
            for batch, films in zip(batches, self._inputs(split, chosen, 0), strict=True):
                logits[list(batch)] = self._plain(films)
            gathered = self.processes.total(logits).cpu()
        return loss_and_accuracy(gathered, split.targets[list(rows)], split.weights[list(rows)])

    def _plain(self, films: torch.Tensor) -> torch.Tensor:
        part = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        logits: torch.Tensor = part(films)
        return logits

    def _inputs(self, split: Split, batches: Sequence[Sequence[int]], epoch: int) -> Iterator[torch.Tensor]:
        device = self.processes.device
        for films in map(torch.stack, prefetched(batches, lambda row: split.load(row, epoch))):
            pinned = films.pin_memory() if device.type == "cuda" else films  # a GPU copies from it without waiting
            yield pinned.to(device, memory_format=torch.channels_last, non_blocking=True)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self.processes.is_first:
            self.save(
                {
                    "epoch": self.epoch,
                    "step": self.step,
                    "weights": self._weights(),
                    "best": self.best,
                    "best_epoch": self.best_epoch,
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "history": [dataclasses.asdict(epoch) for epoch in self.history],
                    "spent_s": self._earlier_s + time.monotonic() - self._started,
                }
            )

    def _restore(self, state: State) -> None:
        self.epoch, self.step = state["epoch"], state["step"]
        self.best_epoch, self.best = state["best_epoch"], state["best"]
        self._put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [Epoch(**values) for values in state["history"]]
        self._earlier_s = state["spent_s"]
