"""``pneumoscan calibrate``: everything that is fitted on validation films."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Temperature, thresholds, scale of the heat map and parity of engines, from the validation films.

    The screen for views that are not frontal comes from the training films. Fits to a run's checkpoint and leaves
    calibration.json in the run; `pneumoscan export` puts it into the spec.
    """

    run: Annotated[Path, Option("a run folder with a checkpoint", "DIR")]
    data: Annotated[Path, Option("the data folder it was trained on", "DIR")]
    device: Annotated[str, Option("auto, cpu or cuda")] = "auto"
    engine: Annotated[
        tuple[
            Literal[
                "openvino-float32",
                "openvino-bfloat16",
                "openvino-int8",
                "cuda-float32",
                "cuda-bfloat16",
                "cuda-float16",
            ],
            ...,
        ]
        | None,
        Option(
            "compare this engine with torch-float32, so that `pneumoscan export` can choose it; may be given again "
            "(default: the float32 engines that run here)",
            repeated=True,
        ),
    ] = None
    balance: Annotated[
        Literal["none", "class", "source"],
        Option(
            "let classes, or sources and classes, weigh the same for temperature and thresholds, however many films of "
            "validation they have"
        ),
    ] = "none"


OPTIONS = Options


def run(options: Options) -> int:
    """Calibrate a run."""
    from cxr_training.calibrate import calibrate_run
    from cxr_training.data.records import load_films

    calibrate_run(
        options.run, lambda scheme: load_films(options.data, scheme), options.device, options.engine, options.balance
    )
    return 0
