"""Ask a running server about films: ``python -m scripts.predict PATH...``.

Exit codes: 0 every film was answered, 1 at least one was not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cxr_client import TARGETS, VIEWS, AnswerLost, ClientError, InferenceClient, ServerUnreachable
from pneumoscan.film_files import find_films, picture_names
from pneumoscan.options import positive
from pneumoscan.outcomes import CSV_COLUMNS, Outcome, write_csv, write_json, write_table

PICTURES = ("heatmap", "overlay")


class UsageError(Exception):
    """The command line asks for something that cannot be; the message says what."""


def ask(
    client: InferenceClient,
    film: Path,
    options: Mapping[str, Any],
    picture: Path | None,
    overwrite: bool = False,
) -> Outcome:
    """Ask about one film and write its picture; an error stays with this film.

    Parameters
    ----------
    options : mapping
        Keyword arguments of `InferenceClient.predict`.
    picture : Path, optional
        Where the reply's PNG is written; it is taken out of the reply, which then names the file.
    overwrite : bool
        Whether a file there may be replaced.
    """
    try:
        reply = client.predict(film, **options)
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
    except ValueError as error:  # binascii.Error
        return Outcome(film, error=ClientError(f"the reply's picture is not base64: {error}"))
    return Outcome(film, reply=reply, picture=picture)


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of this command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.predict",
        description="Ask a running PneumoScan server about chest X-rays. Research use only, not a diagnosis.",
        epilog="Prints one line for each film: file, label, probability of pneumonia. Exit codes: 0 every film was "
        "answered, 1 at least one was not, 2 wrong usage.",
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="film, or folder searched for PNG, JPEG and DICOM files, those without a suffix included",
    )
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8080",
        help="inference address, or https:// of an edge, whose key is taken from PNEUMOSCAN_KEY (default: %(default)s)",
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificate of an edge that signed its own, PEM")
    parser.add_argument(
        "--cam",
        choices=("grid", *PICTURES),
        help="class activation map of each reply: 7 x 7 grid, or a picture too (default: grid; with --out: overlay)",
    )
    parser.add_argument(
        "--target", choices=TARGETS, default="predicted", help="which logit the map explains (default: %(default)s)"
    )
    parser.add_argument(
        "--view",
        choices=VIEWS,
        help="view of the films, for files without a tag that says it; a film that does not look frontal is then "
        "flagged and not refused (LATERAL is refused)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write each film's picture to DIR/<stem>.overlay.png (or .heatmap.png)"
    )
    parser.add_argument("--force", action="store_true", help="let --out replace files")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON array of the server's replies and errors")
    form.add_argument("--csv", action="store_true", help=f"print CSV: {','.join(CSV_COLUMNS)}")
    parser.add_argument(
        "--model-version", metavar="VERSION", help="version of the model (default: the server's default version)"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=8,
        metavar="N",
        help="films asked about at once, so that the server can batch them (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long one reply may take (default: %(default)g)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = build_parser().parse_args(argv)
    try:
        films, pictures = _plan(args)
        client = _client(args)
    except (UsageError, OSError) as error:
        print(f"scripts.predict: {error}", file=sys.stderr)
        return 2
    try:
        outcomes = _ask_all(args, client, films, pictures)
    except KeyboardInterrupt:
        print("scripts.predict: interrupted", file=sys.stderr)
        return 1
    write = write_json if args.json else write_csv if args.csv else write_table
    write(outcomes, sys.stdout)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed and all(isinstance(outcome.error, ServerUnreachable) for outcome in failed):
        print(f"scripts.predict: {failed[0].error}", file=sys.stderr)
    elif failed:
        print(f"scripts.predict: {len(failed)} of {len(outcomes)} films were not answered", file=sys.stderr)
    return 1 if failed else 0


def _plan(args: argparse.Namespace) -> tuple[list[Path], list[Path | None]]:
    args.cam = args.cam or ("overlay" if args.out else "grid")
    if args.out and args.cam not in PICTURES:
        raise UsageError("--out needs --cam overlay or --cam heatmap: a grid is no picture")
    films = find_films(args.paths)
    if not films:
        raise UsageError(f"no film in {', '.join(map(str, args.paths))}: PNG, JPEG or DICOM files are looked for")
    if not args.out:
        return films, [None] * len(films)
    args.out.mkdir(parents=True, exist_ok=True)
    pictures: list[Path | None] = [args.out / name for name in picture_names(films, args.cam)]
    if not args.force and (there := [path for path in pictures if path is not None and path.exists()]):
        raise UsageError(f"{there[0]} exists ({len(there)} of {len(pictures)} do): give --force or another --out")
    return films, pictures


def _client(args: argparse.Namespace) -> InferenceClient:
    if args.ca is not None and not args.ca.is_file():
        raise UsageError(f"--ca {args.ca} is no file: give the edge's certificate, PEM")
    # From the environment: an argument would be seen by every user of the machine.
    key = os.environ.get("PNEUMOSCAN_KEY")
    try:
        return InferenceClient(args.url, timeout_s=args.timeout, connections=args.jobs, key=key, ca=args.ca)
    except ValueError as error:
        raise UsageError(f"PNEUMOSCAN_KEY: {error}") from error


def _ask_all(
    args: argparse.Namespace, client: InferenceClient, films: list[Path], pictures: list[Path | None]
) -> list[Outcome]:
    gave_up: list[ServerUnreachable] = []
    asked = {"cam": args.cam, "target": args.target, "version": args.model_version, "view": args.view}
    options = {name: value for name, value in asked.items() if value is not None}

    def one(film: Path, picture: Path | None) -> Outcome:
        if gave_up:  # the next thousand films would each wait for the same nothing
            return Outcome(film, error=gave_up[0])
        outcome = ask(client, film, options, picture, args.force)
        if isinstance(outcome.error, ServerUnreachable) and not isinstance(outcome.error, AnswerLost):
            gave_up.append(outcome.error)
        return outcome

    with (
        client,
        ThreadPoolExecutor(args.jobs) as pool,
    ):
        answers = pool.map(one, films, pictures)
        try:
            return list(tqdm(answers, total=len(films), unit="film", file=sys.stderr, disable=None))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


if __name__ == "__main__":
    sys.exit(main())
