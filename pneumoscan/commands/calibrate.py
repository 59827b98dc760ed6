"""``pneumoscan calibrate``: everything that is fitted on validation films."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cxr.model.spec import BAND_RATES
from pneumoscan.options import Option, between

_SHARE = between(0.001, 0.999)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Temperature, thresholds, scale of the heat map and parity of engines, from the validation films.

    The screen for views that are not frontal and the brightness beyond which a film is flagged come from the training
    films. Fits to a run's checkpoint and leaves calibration.json in the run; `pneumoscan export` puts it into the spec.
    """

    run: Annotated[Path, Option("a run folder with a checkpoint", "DIR")]
    data: Annotated[Path | None, Option("the data folder it was trained on", "DIR", exclusive="films")] = None
    site: Annotated[
        Path | None,
        Option(
            "data folder of a site: leave the calibrated run as it is, and make another in --out with the same weights "
            "and thresholds, band and drift reference by the site's split val, with a page of what that changes",
            "DIR",
            exclusive="films",
        ),
    ] = None
    out: Annotated[Path | None, Option("with --site: the folder of the new run (default: RUN-site)", "DIR")] = None
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
    missed: Annotated[
        float, Option("share of PNEUMONIA films that may lie below the indeterminate band", "SHARE", check=_SHARE)
    ] = BAND_RATES[0]
    false_alarms: Annotated[
        float, Option("share of NORMAL films that may lie above the indeterminate band", "SHARE", check=_SHARE)
    ] = BAND_RATES[1]


OPTIONS = Options


def run(options: Options) -> int:
    """Calibrate a run, or another with its weights."""
    from cxr_training.calibrate import Fitting, calibrate_run
    from cxr_training.data.records import load_films
    from cxr_training.errors import TrainingError
    from cxr_training.runs import spec_of
    from cxr_training.site import calibrate_site

    folder = options.site or options.data
    if folder is None:
        raise TrainingError("give the films: --data of the training, or --site")
    if options.site is None and options.out is not None:
        raise TrainingError("--out: only with --site; a calibration by --data stays in the run")
    fitting = Fitting(options.engine, options.balance, (options.missed, options.false_alarms))
    if options.site is None:
        calibrate_run(options.run, lambda scheme: load_films(folder, scheme), options.device, fitting)
        return 0
    out = options.out or options.run.with_name(f"{options.run.name}-site")
    before = spec_of(options.run)
    fitting = replace(fitting, screen=before.screen, brightness=before.brightness)
    found = calibrate_site(options.run, lambda scheme: load_films(folder, scheme), out, options.device, fitting)
    for name in ("sensitivity", "specificity"):
        figure = found.figures[name]
        print(f"{out}: {name} {number(figure.before)} before, {number(figure.after)} after ({found.films} films)")
    print(f"{out}: before and after with intervals are in site.html; next is pneumoscan export --run {out}")
    return 0


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"
