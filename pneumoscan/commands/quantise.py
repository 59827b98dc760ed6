"""``pneumoscan quantise``: make the network in int8 for a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make the network in int8 for a CPU.

    Convolutions are in 8 bits, their ranges set by training films; the head is left out of it.
    """

    run: Annotated[Path, Option("a run folder with a checkpoint", "DIR")]
    data: Annotated[Path, Option("the data folder it was trained on", "DIR")]
    films: Annotated[int, Option("training films that set the ranges", "N")] = 300
    keep: Annotated[tuple[str, ...], Option("parts left as they are", "PART")] = ("conv1", "layer1")


OPTIONS = Options


def run(options: Options) -> int:
    """Quantise and say what comes next."""
    from cxr.model.parity import INT8_FILES
    from cxr_training.data.records import load_films
    from cxr_training.quantise import quantise
    from cxr_training.runs import checkpoint_predictor

    predictor = checkpoint_predictor(options.run, "cpu")
    records = load_films(options.data, predictor.spec.scheme).of("train")
    quantise(predictor, records, options.run, options.keep, options.films)
    size = sum((options.run / name).stat().st_size for name in INT8_FILES)
    print(f"{options.run / INT8_FILES[0]} ({size / 1e6:.1f} MB): now pneumoscan calibrate --engine openvino-int8")
    return 0
