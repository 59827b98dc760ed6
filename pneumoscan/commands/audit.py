"""``pneumoscan audit``: measure what a model owes to anything but the lungs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cxr_training.measure.records import RESAMPLES
from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what can be had without the lungs, and what becomes of a model's figures elsewhere."""

    run: Annotated[Path, Option("a run folder, exported or with a checkpoint", "DIR")]
    data: Annotated[Path, Option("the data folder it was trained on", "DIR")]
    cache: Annotated[Path | None, Option("folder of stored features (default: .features beside the run)", "DIR")] = None
    split: Annotated[Literal["test", "val"], Option("val also chose, so it looks a little too good")] = "test"
    out: Annotated[Path | None, Option("folder for the results (default: the run)", "DIR")] = None
    bootstrap: Annotated[int, Option("resamples", "N")] = RESAMPLES
    seed: Annotated[int, Option("of the resamples", "N")] = 0
    device: Annotated[str, Option("auto, cpu or cuda")] = "auto"


OPTIONS = Options


def run(options: Options) -> int:
    """Audit a run and print the plain words."""
    from cxr_training.audit import audit
    from cxr_training.data.records import load_films
    from cxr_training.measure.intervals import Bootstrap
    from cxr_training.runs import exported_or_checkpoint, features_folder

    bootstrap = Bootstrap(options.bootstrap, options.seed)
    out = options.out or options.run
    predictor = exported_or_checkpoint(options.run, options.device)
    found = audit(
        predictor,
        load_films(options.data, predictor.spec.scheme),
        out,
        cache=options.cache or features_folder(options.run),
        split=options.split,
        bootstrap=bootstrap,
    )
    print(f"{out / 'audit.html'}: {found.readings['model'].overall.films} {options.split} films")
    print("\n".join(found.plain_words))
    return 0
