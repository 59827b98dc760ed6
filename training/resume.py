"""The state of a training that is under way, so that it goes on where it was however it ended."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from training.errors import TrainingError
from training.runs import clear_partials, write_whole

STATE_FILE: Final = "unfinished.pth"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The state file of a run folder; there only while layers below the head are trained.

    Parameters
    ----------
    run
        The run folder.
    basis
        What the training depends on beside its state, in words a person knows: the state of another basis would end in
        weights that are neither's.
    """

    run: Path
    basis: Mapping[str, str]

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state, whole or not at all."""
        values = {"basis": dict(self.basis), **state}
        write_whole(self.run / STATE_FILE, lambda partial: torch.save(values, partial))

    def load(self) -> dict[str, Any] | None:
        """The state, None where there is none.

        Raises
        ------
        TrainingError
            If it is of another basis, or cannot be read.
        """
        path = self.run / STATE_FILE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            basis = state.pop("basis")
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise TrainingError(f"{path} cannot be read ({reason}): start again with --force") from error
        apart = sorted(name for name in {*basis, *self.basis} if basis.get(name) != self.basis.get(name))
        if apart:
            raise TrainingError(
                f"{self.run} holds an unfinished training that began with another {', '.join(apart)}: ask for the "
                "same, choose another --run, or give it up with --force"
            )
        return state


def is_unfinished(run: Path) -> bool:
    """Whether a run folder holds the state of a training."""
    return (run / STATE_FILE).is_file()


def clear(run: Path) -> None:
    """Take the state away, and what a kill left of writing any file of the run."""
    (run / STATE_FILE).unlink(missing_ok=True)
    clear_partials(run)
