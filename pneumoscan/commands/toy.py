"""``pneumoscan toy``: make a folder of synthetic chest films, to try PneumoScan out where there are no real ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pneumoscan.errors import UsageError
from pneumoscan.options import Option

if TYPE_CHECKING:
    from cxr_training.data.toy.files import ToySummary


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make synthetic chest films with a manifest.csv.

    The films are seeded: the same arguments give the same bytes.
    """

    out: Annotated[Path, Option("folder to make; must not hold anything", "OUT", positional=True)]
    patients: Annotated[int, Option("6 to 9999, 1 to 4 films each", "N")] = 80
    seed: Annotated[int, Option("0 or more", "S")] = 0
    size: Annotated[int, Option("long side, 64 to 4096", "PIXELS")] = 512
    force: Annotated[bool, Option("replace OUT and all that it holds")] = False
    json: Annotated[bool, Option("print the summary as JSON")] = False


OPTIONS = Options


def run(options: Options) -> int:
    """Make the films."""
    from cxr_training.data.toy.files import write_toy_data

    try:
        summary = write_toy_data(options.out, options.patients, options.seed, options.size, force=options.force)
    except (ValueError, FileExistsError) as error:
        raise UsageError(str(error)) from error
    print(json.dumps(asdict(summary) | {"out": str(summary.out)}) if options.json else _sentences(summary))
    return 0


def _sentences(summary: ToySummary) -> str:
    splits = ", ".join(
        f"{name} {sum(counts.values())} ({counts['PNEUMONIA']} PNEUMONIA)" for name, counts in summary.splits.items()
    )
    forms = ", ".join(f"{count} {form}" for form, count in summary.forms.items())
    return f"{summary.out}: {summary.films} synthetic films of {summary.patients} patients\n  {splits}\n  {forms}"
