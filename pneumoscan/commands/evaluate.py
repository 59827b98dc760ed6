"""``pneumoscan evaluate``: measure a model on films it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cxr_training.measure.records import PREVALENCES, RESAMPLES
from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure an exported model, or a packed archive, on films it has not seen.

    Scores with the same code that serves; with --archive the archive is unpacked and its own code does it. Leaves
    metrics.json, predictions.csv, report.html (one file that opens anywhere), report.md, errors.md and pictures. Every
    figure has a 95 % interval by a bootstrap over patients. Where the data folder has boxes around opacities, the heat
    maps are held against them.
    """

    run: Annotated[Path | None, Option("a run folder that was exported", "DIR", exclusive="model", required=True)] = (
        None
    )
    archive: Annotated[
        Path | None, Option("a .mar file; scored by its own code", "FILE", exclusive="model", required=True)
    ] = None
    data: Annotated[Path, Option("the data folder", "DIR")]
    split: Annotated[Literal["train", "val", "test"], Option("which of its films")] = "test"
    out: Annotated[
        Path | None, Option("folder for the results (default: the run; runs/NAME for an archive)", "DIR")
    ] = None
    prevalence: Annotated[
        tuple[float, ...],
        Option("of PNEUMONIA where the model would be used, for PPV and NPV beside the films' own", "SHARE"),
    ] = PREVALENCES
    bootstrap: Annotated[int, Option("resamples", "N")] = RESAMPLES
    seed: Annotated[int, Option("of the resamples", "N")] = 0
    device: Annotated[str, Option("auto, cpu or cuda")] = "auto"


OPTIONS = Options


def run(options: Options) -> int:
    """Evaluate, in this process or by an archive's own code."""
    from dataclasses import replace

    from cxr_training.evaluate import evaluate_run, with_archive_code
    from cxr_training.measure.intervals import Bootstrap
    from cxr_training.pages.page import figure
    from cxr_training.pages.report import TITLES
    from pneumoscan.options import as_argv

    if options.archive is not None:
        out = options.out or Path("runs") / options.archive.stem
        with_archive_code(
            options.archive,
            lambda folder: ["evaluate", *as_argv(replace(options, run=folder, archive=None, out=out))],
        )
        return 0
    assert options.run is not None
    out = options.out or options.run
    metrics = evaluate_run(
        options.run,
        options.data,
        options.split,
        out,
        device=options.device,
        bootstrap=Bootstrap(options.bootstrap, options.seed),
        prevalences=options.prevalence,
    )
    overall = metrics.overall
    shown = ", ".join(
        f"{TITLES[name]} {figure(overall.named(name))}" for name in ("auroc", "sensitivity", "specificity")
    )
    print(f"{out / 'report.html'}: {overall.films} {options.split} films, {shown}")
    return 0
