"""``pneumoscan score``: score films in process, without a server."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pneumoscan.errors import ScoreError
from pneumoscan.options import Option, at_least
from pneumoscan.server.options import FORMATS_VARIABLE, Format


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score films with an archive's own code, without a server. Research use only, not a diagnosis.

    Leaves one row a film in Parquet parts, in the order of the films, and a summary. Killed or interrupted, the same
    command goes on after the last whole part. Exit status 1 if a film failed; one that was refused is no failure.
    """

    paths: Annotated[
        tuple[Path, ...],
        Option(
            "film; folder searched for PNG, JPEG and DICOM files, those without a suffix included; CSV list with a "
            "column file, such as a data folder's manifest.csv; ZIP",
            "PATH",
            positional=True,
        ),
    ]
    archive: Annotated[Path, Option("a .mar file", "FILE")]
    out: Annotated[Path, Option("folder for the results", "DIR")]
    workers: Annotated[
        int | None, Option("processes that score (default: one for each core)", "N", check=at_least(1))
    ] = None
    threads: Annotated[
        int | None, Option("threads each of them computes with (default: cores / workers)", "N", check=at_least(1))
    ] = None
    part: Annotated[
        int, Option("films in each part; what a kill loses is at most the begun ones", "N", check=at_least(1))
    ] = 1000
    timeout: Annotated[float, Option("how long one film may take", "SECONDS", check=at_least(0.1))] = 120.0
    view: Annotated[
        Literal["PA", "AP", "LATERAL"] | None, Option("view of the films, for files without a tag that says it")
    ] = None
    formats: Annotated[
        tuple[Format, ...],
        Option("read these files of film digitisers too, where they are named or in a list; as of pneumoscan serve"),
    ] = ()
    force: Annotated[bool, Option("begin again where DIR holds another job, whose results go")] = False
    json: Annotated[bool, Option("print the summary as JSON")] = False


OPTIONS = Options


def run(options: Options) -> int:
    """Score what the results lack and print the summary; 1 if a film failed."""
    import pyarrow  # noqa: F401 - missing, it is missed before anything begins

    from cxr.json_records import to_json
    from pneumoscan.score.job import Request, score
    from pneumoscan.score.summary import write_table
    from pneumoscan.server.capacity import CapacityOptions, machine, plan

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # workers are ended as after Ctrl-C
    try:
        summary = score(
            Request(
                paths=options.paths,
                archive=options.archive,
                out=options.out,
                view=options.view,
                part=options.part,
                formats=tuple(sorted(options.formats or filter(None, os.environ.get(FORMATS_VARIABLE, "").split(",")))),
                timeout_s=options.timeout,
                capacity=plan(machine(), CapacityOptions(workers=options.workers, threads=options.threads)),
                force=options.force,
            )
        )
    except KeyboardInterrupt:
        raise ScoreError(f"interrupted; whole parts are in {options.out}, and the same command goes on") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if options.json:
        print(to_json(summary), end="")
    else:
        write_table(summary, sys.stdout)
    return 1 if summary.failed else 0
