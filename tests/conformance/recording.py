"""A recording of what the product answers, and two of them compared.

::

    python -m tests.conformance.recording record OUT --films DIR --films DIR
    python -m tests.conformance.recording compare BEFORE AFTER --tolerance 1e-5
    python -m tests.conformance.recording sample tests/conformance/replies.json --force

A recording is made before a change that must not change behaviour, and again after it. It uses only what others rely
on: the command lines, the archive with the handler inside it, `docs/openapi.yaml` and `metrics.yaml`.
Exit codes: 0 done, or identical; 1 different, or a step failed; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conformance import commands, replies, toy_run
from tests.conformance.archives import ROOT, Worker, pack, unpack, working, write_fixed_model
from tests.conformance.comparing import ALLOWED_FILE, SUMMARY, PatternError, compare, read_allowed, read_recording
from tests.conformance.masks import Masks

PARTS: Final = ("surfaces", "toy_run", "replies", "commands")
_TOY_FILMS: Final = 24  # of the toy films, so many are asked about


class Recorder:
    """Makes a recording.

    Parameters
    ----------
    out
        The folder it goes to.
    films
        Folders of films that are asked about beside those made on the spot.
    parts
        Which of `PARTS` are made; of a recording that is there, the others stay.
    """

    def __init__(self, out: Path, films: Sequence[Path], parts: Sequence[str]) -> None:
        self.out = out
        self.films = films
        self.parts = parts

    def record(self) -> None:
        """All sections, one after the other, and a summary."""
        with tempfile.TemporaryDirectory(prefix="conformance-") as name:
            work = Path(name).resolve()
            masks = Masks({work: "<work>", ROOT: "<root>"})
            if "surfaces" in self.parts:
                self._write("surfaces/metrics", metric_names())
                self._write("surfaces/openapi", api_paths())
            toys = toy_run.run_all(work, masks)  # what comes after needs what it leaves
            if "toy_run" in self.parts:
                for section, entries in toys.items():
                    self._write(f"toy_run/{section}", entries)
            write_fixed_model(work / "fixed")
            if "replies" in self.parts:
                self._all_replies(work)
            if "commands" in self.parts:
                for section, entries in commands.run_all(work, masks).items():
                    self._write(f"commands/{section}", entries)
        counts = {section: len(entries) for section, entries in read_recording(self.out).items()}
        summary = {"entries": counts, "total": sum(counts.values()), "python": platform.python_version()}
        _write_json(self.out / SUMMARY, summary)
        print(f"{self.out}: {sum(counts.values())} entries in {len(counts)} sections")

    def _all_replies(self, work: Path) -> None:
        with working(unpack(pack(work / "fixed", work / "fixed-store"), work / "fixed-archive")) as worker:
            self._replies(worker, "fixed", self.films)
            self._requests(worker, "fixed")
        with working(unpack(toy_run.archive_of(work), work / "toy-archive")) as worker:
            self._replies(worker, "toy", self.films, ("grid",))
            toys = sorted((toy_run.data_of(work) / "films").iterdir())
            self._ask(worker, "toy", "toy", {f"toy/{path.name}": path for path in toys[:_TOY_FILMS]})
            self._requests(worker, "toy")

    def _replies(self, worker: Worker, archive: str, folders: Sequence[Path], ways: Sequence[str] = ()) -> None:
        self._write(f"metric_lines/{archive}/start", {"start": replies.metrics_of(worker.printed_at_start)})
        self._ask(worker, archive, "made", replies.made_films())
        for folder in folders:
            self._ask(worker, archive, folder.name, dict(replies.films_of([folder])), ways)

    def _ask(self, worker: Worker, archive: str, group: str, films: dict[str, Any], ways: Sequence[str] = ()) -> None:
        entries: dict[str, Any] = {}
        counted: dict[str, Any] = {}
        for name, film in films.items():
            data = film.read_bytes() if isinstance(film, Path) else film
            asked = {way: one for way, one in replies.ways_to_ask(data).items() if not ways or way in ways}
            got, lines = replies.ask_about(worker, name, asked)
            entries |= got
            counted |= lines
        self._write(f"replies/{archive}/{group}", entries)
        self._write(f"metric_lines/{archive}/{group}", counted)

    def _requests(self, worker: Worker, archive: str) -> None:
        for group, asked in (("unusual", replies.edge_requests()), ("bad", replies.bad_requests())):
            entries, counted = replies.ask_each(worker, group, asked)
            self._write(f"replies/{archive}/{group}", entries)
            self._write(f"metric_lines/{archive}/{group}", counted)

    def _write(self, section: str, entries: dict[str, Any]) -> None:
        _write_json(self.out / f"{section}.json", entries)
        print(f"{section}: {len(entries)} entries", file=sys.stderr, flush=True)


def metric_names() -> dict[str, Any]:
    """What `metrics.yaml` declares: unit and labels of each metric, by group, kind and name."""
    declared = yaml.safe_load((ROOT / "metrics.yaml").read_text(encoding="utf-8"))
    return {
        f"{group} {kind} {metric['name']}": {"unit": metric["unit"], "labels": metric["dimensions"]}
        for group in ("ts_metrics", "model_metrics")
        for kind, metrics in declared[group].items()
        for metric in metrics
    }


def api_paths() -> dict[str, Any]:
    """The digest of each path and schema of `docs/openapi.yaml`, and of what stands beside them."""
    described = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))
    parts: dict[str, Any] = {f"paths {path}": one for path, one in described.pop("paths").items()}
    for kind, components in described.pop("components", {}).items():
        parts |= {f"{kind} {name}": one for name, one in components.items()}
    parts |= described
    return {
        name: {"sha256": hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()}
        for name, part in parts.items()
    }


def write_sample(path: Path) -> None:
    """Write the replies that `test_replies.py` compares with: of the fixed archive, to films made on the spot."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        work = Path(name)
        write_fixed_model(work / "fixed")
        with working(unpack(pack(work / "fixed", work / "store"), work / "archive")) as worker:
            _write_json(path, replies.sample(worker))


def _write_json(path: Path, entries: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.conformance.recording", description=__doc__.partition("\n")[0])
    what = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    record = what.add_parser("record", help="make a recording of this tree")
    record.add_argument("out", type=Path, help="folder to make")
    record.add_argument("--films", type=Path, action="append", default=[], metavar="DIR", help="ask about these too")
    record.add_argument("--only", choices=PARTS, action="append", help="make this part of OUT anew, keep the others")
    record.add_argument("--force", action="store_true", help="replace OUT and all that it holds")
    both = what.add_parser("compare", help="compare two recordings; exit 1 if they differ")
    both.add_argument("before", type=Path)
    both.add_argument("after", type=Path)
    both.add_argument("--tolerance", type=float, default=0.0, help="how far numbers may be apart (default: not at all)")
    both.add_argument("--allowed", type=Path, default=ALLOWED_FILE, help="patterns of what changed on purpose")
    some = what.add_parser("sample", help="make the file that test_replies.py compares with")
    some.add_argument("out", type=Path)
    some.add_argument("--force", action="store_true", help="replace the file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.what == "compare":
        for folder in (arguments.before, arguments.after):
            if not (folder / SUMMARY).is_file():
                parser.error(f"{folder} holds no recording")
        try:
            allowed = read_allowed(arguments.allowed)
        except (PatternError, OSError) as error:
            parser.error(str(error))
        return 0 if compare(arguments.before, arguments.after, arguments.tolerance, allowed) else 1
    only = arguments.what == "record" and arguments.only
    if arguments.out.exists() and not (arguments.force or only):
        parser.error(f"{arguments.out} exists: give --force to replace it")
    if arguments.what == "sample":
        write_sample(arguments.out)
        return 0
    for folder in arguments.films:
        if not folder.is_dir():
            parser.error(f"--films {folder} is not a folder")
    if not only:
        shutil.rmtree(arguments.out, ignore_errors=True)
    Recorder(arguments.out, arguments.films, only or PARTS).record()
    return 0


if __name__ == "__main__":
    sys.exit(main())
