"""``pneumoscan predict``: ask a running server about films."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cxr_client import AnswerLost, ClientError, InferenceClient, ServerUnreachable
from pneumoscan.errors import UsageError
from pneumoscan.film_files import Found, find_films, picture_names
from pneumoscan.options import Option, at_least, between, web_address
from pneumoscan.outcomes import CSV_COLUMNS, Outcome, write_csv, write_json, write_table
from pneumoscan.progress import films_done

PICTURES: Final = ("heatmap", "overlay")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Ask a running PneumoScan server about chest X-rays. Research use only, not a diagnosis.

    Prints one line for each film: file, label, probability of pneumonia. Exit status 1 if one was not answered.
    """

    paths: Annotated[
        tuple[Path, ...],
        Option(
            "film, or folder or ZIP searched for PNG, JPEG and DICOM files, whatever they are called",
            "PATH",
            positional=True,
        ),
    ]
    url: Annotated[str, Option("inference address, or https:// of an edge, whose key is taken from PNEUMOSCAN_KEY")] = (
        "http://127.0.0.1:8080"
    )
    ca: Annotated[Path | None, Option("certificate of an edge that signed its own, PEM", "FILE")] = None
    cam: Annotated[
        Literal["grid", "heatmap", "overlay"] | None,
        Option("class activation map of each reply: 7 x 7 grid, or a picture too (default: grid; with --out: overlay)"),
    ] = None
    target: Annotated[
        str,
        Option(
            "which logit the map explains: predicted, contrast, or a class of the model, such as PNEUMONIA",
            "CLASS",
        ),
    ] = "predicted"
    view: Annotated[
        Literal["PA", "AP", "LATERAL"] | None,
        Option(
            "view of the films, for files without a tag that says it; a film that does not look frontal is then "
            "flagged and not refused (LATERAL is refused)"
        ),
    ] = None
    regions: Annotated[
        float | None,
        Option(
            "with --json: outlines and boxes, in the film's pixels, of where the map reaches this share of its highest "
            "value",
            "LEVEL",
            check=between(0.05, 0.95),
        ),
    ] = None
    out: Annotated[
        Path | None, Option("write each film's picture to DIR/<stem>.overlay.png (or .heatmap.png)", "DIR")
    ] = None
    force: Annotated[bool, Option("let --out replace files")] = False
    json: Annotated[bool, Option("print one JSON array of the server's replies and errors", exclusive="form")] = False
    csv: Annotated[bool, Option(f"print CSV: {','.join(CSV_COLUMNS)}", exclusive="form")] = False
    model_version: Annotated[
        str | None, Option("version of the model (default: the server's default version)", "VERSION")
    ] = None
    jobs: Annotated[
        int, Option("films asked about at once, so that the server can batch them", "N", check=at_least(1))
    ] = 8
    timeout: Annotated[float, Option("how long one reply may take", "SECONDS")] = 60.0

    @property
    def map_form(self) -> str:
        """The form of the map that is asked for."""
        return self.cam or ("overlay" if self.out else "grid")


OPTIONS = Options


def run(options: Options) -> int:
    """Ask about every film and print what came of each; 1 if one was not answered."""
    try:
        found, pictures = _plan(options)
    except OSError as error:
        raise UsageError(str(error)) from error
    client = connect(options.url, options.ca, timeout_s=options.timeout, connections=options.jobs)
    outcomes = _ask_all(options, client, found, pictures)
    write = write_json if options.json else write_csv if options.csv else write_table
    write(outcomes, sys.stdout)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed and all(isinstance(outcome.error, ServerUnreachable) for outcome in failed):
        print(f"pneumoscan predict: {failed[0].error}", file=sys.stderr)
    elif failed:
        print(f"pneumoscan predict: {len(failed)} of {len(outcomes)} films were not answered", file=sys.stderr)
    return 1 if failed else 0


def ask(
    client: InferenceClient,
    film: Path,
    options: Mapping[str, Any],
    picture: Path | None,
    overwrite: bool = False,
    contents: Callable[[Path], Path | bytes] = lambda film: film,
) -> Outcome:
    """Ask about one film and write its picture; an error stays with this film.

    Parameters
    ----------
    options
        Keyword arguments of `InferenceClient.predict`.
    picture
        Where the reply's PNG is written; it is taken out of the reply, which then names the file.
    overwrite
        Whether a file there may be replaced.
    contents
        Where a film's bytes are, or the bytes.
    """
    try:
        reply = client.predict(contents(film), **options)
        if picture is not None:
            cam_reply = dict(reply.get("cam") or {})
            png = base64.b64decode(cam_reply.pop("png", "") or "", validate=True)
            if not png:
                raise ClientError("the reply holds no picture")
            with picture.open("wb" if overwrite else "xb") as file:
                file.write(png)
            reply = {**reply, "cam": {**cam_reply, "file": str(picture)}}
    except (ClientError, OSError) as error:
        return Outcome(film, error=error)
    except (ValueError, TypeError) as error:  # binascii.Error, or a value of another type than the contract's
        return Outcome(film, error=ClientError(f"the reply's picture is not base64: {error}"))
    return Outcome(film, reply=reply, picture=picture)


def _plan(options: Options) -> tuple[Found, list[Path | None]]:
    if options.out and options.map_form not in PICTURES:
        raise UsageError("--out needs --cam overlay or --cam heatmap: a grid is no picture")
    found = find_films(options.paths, zips=True)
    films = found.films
    if found.left_out:
        print(f"pneumoscan predict: {found.what_was_left_out}", file=sys.stderr)
    if not films:
        raise UsageError(f"no film in {', '.join(map(str, options.paths))}: PNG, JPEG or DICOM files are looked for")
    if not options.out:
        return found, [None] * len(films)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures: list[Path | None] = [options.out / name for name in picture_names(films, options.map_form)]
    if not options.force and (there := [path for path in pictures if path is not None and path.exists()]):
        raise UsageError(f"{there[0]} exists ({len(there)} of {len(pictures)} do): give --force or another --out")
    return found, pictures


def connect(url: str, ca: Path | None, *, timeout_s: float, connections: int) -> InferenceClient:
    """The client of a server; the key of an edge is taken from the environment.

    Raises
    ------
    UsageError
        Certificate or key cannot be used.
    """
    if ca is not None and not ca.is_file():
        raise UsageError(f"--ca {ca} is no file: give the edge's certificate, PEM")
    # From the environment: an argument would be seen by every user of the machine.
    key = os.environ.get("PNEUMOSCAN_KEY")
    try:
        return InferenceClient(web_address(url), timeout_s=timeout_s, connections=connections, key=key, ca=ca)
    except ValueError as error:
        raise UsageError(f"PNEUMOSCAN_KEY: {error}") from error


def _ask_all(options: Options, client: InferenceClient, found: Found, pictures: list[Path | None]) -> list[Outcome]:
    gave_up: list[ServerUnreachable] = []
    given = {
        "cam": options.map_form,
        "target": options.target,
        "version": options.model_version,
        "view": options.view,
        "regions": options.regions,
    }
    wanted = {name: value for name, value in given.items() if value is not None}

    def one(film: Path, picture: Path | None) -> Outcome:
        if gave_up:  # the next thousand films would each wait for the same nothing
            return Outcome(film, error=gave_up[0])
        outcome = ask(client, film, wanted, picture, options.force, found.contents)
        if isinstance(outcome.error, ServerUnreachable) and not isinstance(outcome.error, AnswerLost):
            gave_up.append(outcome.error)
        return outcome

    with (
        client,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        answers = pool.map(one, found.films, pictures)
        try:
            return list(films_done(answers, len(found.films)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
