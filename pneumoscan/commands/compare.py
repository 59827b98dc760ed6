"""``pneumoscan compare``: compare two models on the same films."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cxr_training.measure.records import RESAMPLES
from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare two models on the same test films."""

    first: Annotated[Path, Option("an evaluated run folder, or a predictions.csv", "PATH")]
    second: Annotated[Path, Option("the other", "PATH")]
    data: Annotated[Path, Option("the data folder both were evaluated on", "DIR")]
    out: Annotated[Path | None, Option("folder for the results (default: printed)", "DIR")] = None
    bootstrap: Annotated[int, Option("resamples", "N")] = RESAMPLES
    seed: Annotated[int, Option("of the resamples", "N")] = 0


OPTIONS = Options


def run(options: Options) -> int:
    """Compare, and print the page or write it."""
    from cxr_training.compare import compare, page_of, read_predictions, summary, write_comparison
    from cxr_training.data.records import load_films
    from cxr_training.measure.intervals import Bootstrap

    bootstrap = Bootstrap(options.bootstrap, options.seed)
    first, second = read_predictions(options.first), read_predictions(options.second)
    found = compare(first, second, load_films(options.data).records, bootstrap)
    if options.out is None:
        print(page_of(found), end="")
    else:
        print(f"{write_comparison(found, options.out)}: {summary(found)}")
    return 0
