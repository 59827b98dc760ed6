"""The state of a training that is under way, so that it goes on where it was however it ended."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from training.errors import TrainingError
from training.runs import write_whole
from training.settings import TrainSettings

STATE_FILE: Final = "unfinished.pth"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The state file of a run folder; there only while a fine-tuning is under way.

    Parameters
    ----------
    run
        The run folder.
    key
        Digest of what the training depends on.
    """

    run: Path
    key: str

    @classmethod
    def of(cls, run: Path, settings: TrainSettings, data_sha256: str) -> Unfinished:
        """The state file of a training of these settings on these films."""
        asked = json.dumps([settings.as_json(), data_sha256], sort_keys=True)
        return cls(run, hashlib.sha256(asked.encode()).hexdigest())

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.run / STATE_FILE

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state, whole or not at all."""
        write_whole(self.path, lambda partial: torch.save({"key": self.key, **state}, partial))

    def load(self) -> dict[str, Any] | None:
        """The state, None where there is none.

        Raises
        ------
        TrainingError
            If it is of other settings or films, or cannot be read.
        """
        if not self.path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            key = state.pop("key")
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError) as error:
            raise TrainingError(f"{self.path} cannot be read ({error}): start again with --force") from error
        if key != self.key:
            raise TrainingError(
                f"{self.run} holds an unfinished training of other settings or films: ask for the same ones, choose "
                "another --run, or give it up with --force"
            )
        return state

    def clear(self) -> None:
        """Take the state away, and what a kill left of writing it."""
        for left in (self.path, *self.run.glob(f".{STATE_FILE}.*.partial")):
            left.unlink(missing_ok=True)
