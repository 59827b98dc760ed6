"""``pneumoscan dicom``: answers as DICOM objects in the study of the film."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pneumoscan.commands.predict import connect
from pneumoscan.errors import UsageError
from pneumoscan.film_files import find_dicom
from pneumoscan.options import Option, at_least


@dataclass(frozen=True, kw_only=True)
class Results:
    """Make DICOM results of films: a picture (Secondary Capture) and a structured report (TID 1500) for each.

    They belong to the study of their film and are to be sent where it came from. OUT also gets result.json, with what
    came of each file. Exit status 1 if one failed; a film that the server refuses, such as a lateral view, has its
    reason there and is no failure. Research use only, not a diagnosis.
    """

    source: Annotated[
        Path, Option("DICOM file, or folder searched for them by their first bytes", "IN", positional=True)
    ]
    out: Annotated[Path, Option("folder for the results, empty or new", "OUT", positional=True)]
    url: Annotated[str, Option("inference address, or https:// of an edge, whose key is taken from PNEUMOSCAN_KEY")] = (
        "http://127.0.0.1:8080"
    )
    ca: Annotated[Path | None, Option("certificate of an edge that signed its own, PEM", "FILE")] = None
    model_version: Annotated[
        str | None, Option("version of the model (default: the server's default version)", "VERSION")
    ] = None
    refusals: Annotated[
        Literal["log", "sr"], Option("what a film that is refused gets: its reason in the log, or a report as well")
    ] = "log"
    jobs: Annotated[
        int, Option("films asked about at once, so that the server can batch them", "N", check=at_least(1))
    ] = 4
    timeout: Annotated[float, Option("how long one reply may take", "SECONDS")] = 60.0
    force: Annotated[bool, Option("replace the results in OUT")] = False
    json: Annotated[bool, Option("print what result.json holds")] = False


def make(options: Results) -> int:
    """Write the results of all films; 1 if one failed."""
    # Here and not above, since --help needs none of it.
    from pneumoscan.dicom.results import RECORD_FILE, FilmResult, ResultMaker, document, write_record
    from pneumoscan.dicom.source import quiet_libraries

    quiet_libraries()
    files = _find(options)
    client = connect(options.url, options.ca, timeout_s=options.timeout, connections=options.jobs)
    maker = ResultMaker(client, options.out, options.model_version, options.refusals == "sr")
    root = options.source if options.source.is_dir() else options.source.parent
    results: list[FilmResult] = []
    with client:
        for result in maker.make_all(files, root, options.jobs):
            print(f"pneumoscan dicom results: {result.line}", file=sys.stderr, flush=True)
            results.append(result)
    write_record(options.out, results)
    counts = Counter(result.state for result in results)
    if options.json:
        print(document(results), end="")
    else:
        print(f"{', '.join(f'{count} {state}' for state, count in counts.items())}: {options.out / RECORD_FILE}")
    return 1 if counts["failed"] else 0


def _find(options: Results) -> list[Path]:
    out = options.out.resolve()
    try:
        files = [path for path in find_dicom(options.source) if not path.resolve().is_relative_to(out)]
    except OSError as error:
        raise UsageError(str(error)) from error
    if not files:
        raise UsageError(f"no DICOM file in {options.source}")
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"{options.out} is no folder")
    if not options.force and options.out.is_dir() and any(options.out.iterdir()):
        raise UsageError(f"{options.out} is not empty: give --force or another folder")
    options.out.mkdir(parents=True, exist_ok=True)
    return files


OPTIONS: Final[dict[str, type[Results]]] = {"results": Results}


def run(options: Results) -> int:
    """Do what was asked for."""
    return make(options)
