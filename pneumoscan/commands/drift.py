"""``pneumoscan drift``: make the drift reference of a model from other films."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make the drift reference of a calibrated run from films like those to come."""

    run: Annotated[Path, Option("a run folder that was calibrated", "DIR")]
    data: Annotated[Path, Option("a data folder with films like those to come", "DIR")]
    split: Annotated[Literal["train", "val", "test"], Option("which of its films")] = "val"
    device: Annotated[str, Option("auto, cpu or cuda")] = "auto"


OPTIONS = Options


def run(options: Options) -> int:
    """Make the reference and carry it to an exported model."""
    from cxr_training.drift import make_reference

    make_reference(options.run, options.data, options.split, options.device)
    return 0
